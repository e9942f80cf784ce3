#!/bin/sh
# Sends the whole JSON of a hook to an address: webhook.sh /etc/kdump-hook.curl
#
# The file has options of curl, mode 0600, so that no secret is in a unit or in the list of processes:
#   url = "https://example.org/kdump"
#   header = "Authorization: Bearer ..."
exec curl --silent --show-error --fail --max-time 60 --config "$1" --header 'Content-Type: application/json' --data-binary @-
