#!/bin/sh
# Sends the line of a hook to Slack, or to Mattermost, by an incoming webhook: slack.sh /etc/kdump-slack.curl
#
# The file has options of curl, mode 0600:
#   url = "https://hooks.slack.com/services/..."
jq '{text: .text}' |
    curl --silent --show-error --fail --max-time 60 --config "$1" --header 'Content-Type: application/json' --data-binary @-
