#!/usr/bin/env node
// The Solidity compiler as an executable: answers `--version` and `--standard-json`, all that
// forge asks of a native solc, with the compiler that package-lock.json pins as JavaScript.

import { readFileSync } from "node:fs";
import solc from "solc";

const args = process.argv.slice(2);

if (args.includes("--version")) {
  console.log("solc, the solidity compiler commandline interface");
  console.log(`Version: ${solc.version().replace(".Emscripten.clang", ".Linux.g++")}`);
} else if (args.includes("--standard-json")) {
  // forge puts every source into the input, so nothing is read from the disk.
  const input = readFileSync(0, "utf8");
  process.stdout.write(solc.compile(input));
} else {
  console.error("usage: solc.mjs --version | --standard-json");
  process.exitCode = 2;
}
