#!/usr/bin/env node
// What proving and verifying cost on this machine: gates, time, memory, proof size, gas.
//
//   node measure.mjs [RUNS]          CRS_PATH=… ; the circuits and verifiers made before
//
// Times are the median of RUNS proofs (default 5) of a witness with two full notes and paths of all
// 32 levels; the first proof, which also warms the solver up, is told apart. Memory is the highest
// resident set of each process. Gas is that of the verifier alone, and of calldata beside it.

import { readFileSync } from "node:fs";
import { cpus } from "node:os";
import { join } from "node:path";
import { CASES } from "../tests/circuits/cases.mjs";
import { Formulas, hasher } from "../tests/circuits/custody.mjs";
import { bytecodeOf, Devnet, verifyCalldata } from "../tests/circuits/evm.mjs";
import { EVM, startBarretenberg } from "./barretenberg.mjs";
import { ARTIFACTS, CIRCUITS, DEV_CRS, VERIFIERS } from "./layout.mjs";
import { Circuit, Prover } from "./prover.mjs";

process.env.CRS_PATH ??= DEV_CRS;
const runs = Number(process.argv[2] ?? 5);
const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1];
const peakMiB = (pid) => Math.round(Number(/VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))[1]) / 1024);
/** Calldata gas of EIP-2028: 16 a byte, 4 a zero byte. */
const calldataGas = (data) => [...Buffer.from(data.slice(2), "hex")].reduce((gas, byte) => gas + (byte ? 16 : 4), 0);

const bb = startBarretenberg();
const devnet = await Devnet.start();
const rows = [];
try {
  const formulas = new Formulas(hasher(bb));
  for (const name of CIRCUITS) {
    const circuit = Circuit.load(ARTIFACTS, name);
    const { numGates, numAcirOpcodes } = await bb.circuitStats({
      circuit: { name, bytecode: circuit.bytecode, verificationKey: new Uint8Array() },
      includeGatesPerOpcode: false,
      settings: EVM,
    });
    const cases = await CASES[name](formulas);
    const { inputs } = cases.find((one) => one.name === "paths of all 32 levels");
    const prover = new Prover({ [name]: circuit });
    await prover.start();
    const first = await prover.prove(name, inputs);
    const more = [];
    for (let i = 0; i < runs; i += 1) more.push(await prover.prove(name, inputs));
    const peak = peakMiB(prover.pid);
    await prover.close();

    const contract = `${name[0].toUpperCase()}${name.slice(1)}Verifier`;
    const bytecode = bytecodeOf(contract, readFileSync(join(VERIFIERS, `${contract}.sol`), "utf8"));
    const to = await devnet.deploy(bytecode);
    const data = verifyCalldata(first.proof, first.publicInputs);
    const [from] = await devnet.rpc("eth_accounts");
    // What a transaction that only verifies uses, less what every transaction pays.
    const hash = await devnet.rpc("eth_sendTransaction", { from, to, data, gas: "0x1c9c380" });
    let receipt = null;
    while (!receipt) receipt = await devnet.rpc("eth_getTransactionReceipt", hash);
    if (receipt.status !== "0x1") throw new Error(`${name}: the verifier refused a sound proof`);
    rows.push({
      circuit: name,
      gates: numGates,
      "ACIR opcodes": numAcirOpcodes,
      "witness ms": median(more.map((one) => one.witness_ms)),
      "proof ms": median(more.map((one) => one.prove_ms)),
      "first ms": first.witness_ms + first.prove_ms,
      "bb MiB": peak,
      "node MiB": peakMiB("self"),
      "proof bytes": (first.proof.length - 2) / 2,
      "verify gas": Number(receipt.gasUsed) - 21000 - calldataGas(data),
      "calldata gas": calldataGas(data),
      "code bytes": ((await devnet.rpc("eth_getCode", to, "latest")).length - 2) / 2,
    });
  }
} finally {
  await devnet.close();
  await bb.destroy();
}
const processors = cpus();
console.log(`${new Date().toISOString().slice(0, 10)}, ${processors.length} × ${processors[0].model.trim()}, Node ${process.versions.node}, ${runs} runs`);
const names = Object.keys(rows[0]);
for (const name of names) console.log([name.padEnd(13), ...rows.map((row) => String(row[name]).padStart(9))].join(" "));
