// Package federation promises a whole federation inside one process:
// coordinators, hospitals with gate and vault, an ethics board with its witness
// and a data-science team, with the same code, keys, signatures and storage as
// separate machines have. Only the wires may be in memory. The demo, simulate
// and the tests run on it.
package federation
