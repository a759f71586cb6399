// Package vault is a hospital's inner room: it holds the rows, the salts, the
// consents, the analyses, the policy and the quantising, and has neither a
// socket nor an identity key. The gate asks it through internal/hatch; in
// production it is a child process of the gate.
//
// Before an analysis reads a row, the row has re-derived to a leaf of a batch
// whose root stands in the hospital's own witnessed ledger, over the very
// buffers that the analysis will read, and the policy has permitted it for this
// study at this moment. Everything unknown, missing or in conflict leaves the
// row out or stops the study here.
//
// Not protected: a hospital whose machine or administrators are hostile can
// replace the whole vault. The ledger and its witness limit what such a
// hospital can claim about its past, not what it contributes.
package vault
