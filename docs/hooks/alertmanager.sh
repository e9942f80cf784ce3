#!/bin/sh
# Makes an alert of a hook, and ends it when the drill is verified again: alertmanager.sh http://localhost:9093
#
# Alertmanager forgets an alert that is not repeated, so the hook needs --hook-on end,stale.
jq '[{
    labels: {alertname: (if .event == "stale" then "KdumpDrillStale" else "KdumpDrillFailed" end), job: .job, image: .image},
    annotations: {summary: .text},
    endsAt: (.at_s + (if .word == "verified" then 0 else 8 * 86400 end) | todate)
}]' | curl --silent --show-error --fail --max-time 60 --header 'Content-Type: application/json' --data-binary @- "$1/api/v2/alerts"
