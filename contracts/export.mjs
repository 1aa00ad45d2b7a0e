#!/usr/bin/env node
// What the Python package needs of the compiled contracts: from forge's out/ into
// python/psymm/artifacts/contracts/<Name>.json as {abi, bytecode, linkReferences}.
//
//   node export.mjs            after `forge build`

import { mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const CONTRACTS = [
  ["PSymm", "PSymm.sol"],
  ["TokenPortal", "TokenPortal.sol"],
  ["PartyRegistry", "PartyRegistry.sol"],
  ["Poseidon2", "Poseidon2.sol"],
  ["CtcVerifier", "CtcVerifier.sol"],
  ["CtaVerifier", "CtaVerifier.sol"],
  ["TestToken", "TestToken.sol"],
  ["TokenFacts", "TokenTrial.sol"],
  ["TokenTrial", "TokenTrial.sol"],
];

const OUT = join(import.meta.dirname, "out");
const ARTIFACTS = join(import.meta.dirname, "..", "python", "psymm", "artifacts", "contracts");

mkdirSync(ARTIFACTS, { recursive: true });
const wanted = new Set(CONTRACTS.map(([name]) => `${name}.json`));
for (const file of readdirSync(ARTIFACTS)) {
  if (!wanted.has(file)) rmSync(join(ARTIFACTS, file));
}
for (const [name, source] of CONTRACTS) {
  const { abi, bytecode } = JSON.parse(readFileSync(join(OUT, source, `${name}.json`), "utf8"));
  if (!/^0x[0-9a-f]+$/.test(bytecode.object)) {
    throw new Error(`${name}: forge's out has no linked bytecode; run forge build`);
  }
  const artifact = { abi, bytecode: bytecode.object, linkReferences: bytecode.linkReferences ?? {} };
  writeFileSync(join(ARTIFACTS, `${name}.json`), `${JSON.stringify(artifact)}\n`);
}
console.log(`${CONTRACTS.length} contracts in python/psymm/artifacts/contracts`);
