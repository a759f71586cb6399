// Package report renders result.json as one self-contained HTML page that a
// physician, a board and an engineer can all read: what was asked, who
// contributed, what came out, what went wrong, and how to check it.
//
// Its promise: the page shows what result.json says and nothing else, and it
// asks nobody for anything. There is no script; a content security policy in
// the page forbids every request, so opening a report tells no server that
// somebody reads it. It works from a disk, in print, in light and dark, without
// colour and with a screen reader.
//
// Every plotted point and every row carries the exact text of its numbers in
// data attributes, so that a program can hold the page against result.json; a
// browser test in this package does (build tag browser).
//
// Text from a study or a site is escaped by html/template; it cannot become
// markup.
package report
