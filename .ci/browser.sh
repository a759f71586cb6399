#!/bin/sh
# Opens DIR/report.html in a real browser and holds it against DIR/result.json:
# points, labels and numbers equal, nothing on the console, no outside request.
# Keeps the screenshot as DIR/report.png. Then spoils a report in every way that
# this check is there for and expects to notice each.
#
# usage: .ci/browser.sh DIR      (needs Chromium; CHROMIUM names another binary)
set -eu
if [ $# -ne 1 ] || [ ! -f "$1/result.json" ] || [ ! -f "$1/report.html" ]; then
	echo "usage: $0 DIR, a directory with result.json and report.html" >&2
	exit 2
fi
dir=$(cd "$1" && pwd)
cd "$(dirname "$0")/.."
CONSILIUM_REPORT="$dir" go test -tags browser -count=1 -v -run '^TestReportInBrowser$' ./internal/report
go test -tags browser -count=1 -run '^(TestBrowserCheckNotices|TestDotsInBrowser)$' ./internal/report
