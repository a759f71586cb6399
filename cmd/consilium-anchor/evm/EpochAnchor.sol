// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// One super-root for the ledgers of all hospitals, once an epoch. Epochs only
/// grow, and what was put is never changed: a second value for an epoch reverts,
/// the same value again succeeds and writes nothing (a transaction that is sent
/// twice is the same anchor). Only the address that deployed may put, so nobody
/// else can occupy an epoch.
contract EpochAnchor {
    address public immutable owner;
    uint64 public last; // slot 0: the newest epoch; 0 before the first
    mapping(uint64 => bytes32) public root; // slot 1: epoch -> super-root

    event Anchored(uint64 indexed epoch, bytes32 root);

    error NotOwner();
    error Zero();
    error Conflict(uint64 epoch, bytes32 have);
    error Backwards(uint64 epoch, uint64 last);

    constructor() {
        owner = msg.sender;
    }

    function put(uint64 epoch, bytes32 superRoot) external {
        if (msg.sender != owner) revert NotOwner();
        if (epoch == 0 || superRoot == 0) revert Zero();
        bytes32 have = root[epoch];
        if (have == superRoot) return;
        if (have != 0) revert Conflict(epoch, have);
        if (epoch <= last) revert Backwards(epoch, last);
        last = epoch;
        root[epoch] = superRoot;
        emit Anchored(epoch, superRoot);
    }
}
