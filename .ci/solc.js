// Compiles EpochAnchor.sol and compares with what is committed beside it.
const fs = require("fs"), path = require("path");
const solc = require(path.join(__dirname, "node_modules", "solc"));
const dir = process.argv[2];
const input = {
	language: "Solidity",
	sources: { "EpochAnchor.sol": { content: fs.readFileSync(path.join(dir, "EpochAnchor.sol"), "utf8") } },
	settings: {
		optimizer: { enabled: true, runs: 200 }, evmVersion: "paris", metadata: { bytecodeHash: "none", appendCBOR: false },
		outputSelection: { "*": { "*": ["abi", "evm.bytecode.object"] } },
	},
};
const c = JSON.parse(solc.compile(JSON.stringify(input))).contracts["EpochAnchor.sol"].EpochAnchor;
for (const [name, want] of [["EpochAnchor.bin", c.evm.bytecode.object], ["EpochAnchor.abi", JSON.stringify(c.abi)]]) {
	if (fs.readFileSync(path.join(dir, name), "utf8").trim() !== want) {
		console.error(name + " is not what solc " + solc.version() + " makes of EpochAnchor.sol");
		process.exit(1);
	}
}
console.log("EpochAnchor.bin is what solc " + solc.version() + " makes of EpochAnchor.sol");
