#!/usr/bin/env node
// Compiles the circuits to ACIR with noir_wasm: circuits/<name> → <out>/<name>.json.
//
//   node compile.mjs [--out DIR] [ctc|cta …]
//
// Noir dependencies are paths only, so nothing is fetched. The artifact keeps abi, bytecode and
// compiler version; what holds sources or paths stays out, so that the same circuit gives the same
// file on every machine and an assertion's message is all that a failing witness tells.

import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { compile as compileProgram, createFileManager } from "@noir-lang/noir_wasm";
import { ARTIFACTS, CIRCUITS, REPO } from "./layout.mjs";

/**
 * The compiled program of the Noir package at `dir`. Throws with the compiler's diagnostics, and on
 * a warning too unless `warnings` are allowed.
 */
export async function compile(dir, { warnings: allowed = false } = {}) {
  const said = [];
  const log = (line) => said.push(String(line));
  // The compiler prints the path that it compiles, whatever logger it is given.
  const print = console.log;
  console.log = () => {};
  try {
    const { program, warnings } = await compileProgram(createFileManager(dir), undefined, log, () => {});
    if (warnings?.length && !allowed) throw new Error(warnings.map((w) => w.message ?? JSON.stringify(w)).join("\n"));
    const { noir_version, abi, bytecode } = program;
    return { noir_version, abi, bytecode };
  } catch (error) {
    error.message = [error.message, ...said].join("\n");
    throw error;
  } finally {
    console.log = print;
  }
}

async function main(args) {
  const at = args.indexOf("--out");
  const out = at < 0 ? ARTIFACTS : args.splice(at, 2)[1];
  const names = args.length ? args : CIRCUITS;
  mkdirSync(out, { recursive: true });
  for (const name of names) {
    const started = performance.now();
    const program = await compile(join(REPO, "circuits", name));
    writeFileSync(join(out, `${name}.json`), JSON.stringify(program));
    console.log(`${name}: compiled in ${Math.round(performance.now() - started)} ms`);
  }
}

if (import.meta.filename === process.argv[1]) {
  await main(process.argv.slice(2)).catch((error) => {
    console.error(`compile: ${error.message}`);
    process.exitCode = 1;
  });
}
