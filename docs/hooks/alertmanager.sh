#!/bin/sh
# Makes an alert of a hook, and ends it when the drill is verified again: alertmanager.sh http://localhost:9093
#
# Alertmanager forgets an alert that is not repeated, so the hook needs --hook-on end,stale.
jq '(.word == "verified" or .word == "known issue") as $good
| .at_s as $at | {job, image} as $labels | .text as $text
| [(if .event == "stale" then "KdumpDrillStale" elif $good then "KdumpDrillFailed", "KdumpDrillStale" else "KdumpDrillFailed" end)
    | {
        labels: ($labels + {alertname: .}),
        annotations: {summary: $text},
        endsAt: ($at + (if $good then 0 else 8 * 86400 end) | todate)
    }]' | curl --silent --show-error --fail --max-time 60 --header 'Content-Type: application/json' --data-binary @- "$1/api/v2/alerts"
