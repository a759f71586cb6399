// Package client is the side of those who ask and those who approve: a
// data-science team submits a study, follows it and opens its result; board
// members approve a study. It promises that nothing the coordinator says is
// believed without the signature of who is said to have said it: a result is
// handed over only when t hospitals of the charter signed its digest.
package client
