#!/usr/bin/env node
// Takes each constraint of the circuits away in turn, and shows what then passes.
//
//   node mutate.mjs [ctc|cta [MARKER …]]
//
// A constraint is a line with a marker such as `[C6.2]`. A check is dropped; a line that binds one
// wire to another (one custody, one token …) gets a wire of its own instead, `free`, that a prover
// may set. The mutant then meets every case of tests/circuits/cases.mjs: exactly the cases that
// name this constraint must pass that did not before, and no other may change. Exit code 1 if a
// constraint can go unnoticed, or if its going lets through what is not its own.

import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CASES } from "../tests/circuits/cases.mjs";
import { Formulas, hasher, hex } from "../tests/circuits/custody.mjs";
import { startBarretenberg } from "./barretenberg.mjs";
import { compile } from "./compile.mjs";
import { CIRCUITS, REPO } from "./layout.mjs";
import { Circuit } from "./prover.mjs";

/** Lines that bind: what is set free, and which honest value it has in a case that does not care. */
const custodyOf = (from, to = "free") => ({ from, to, wire: "custody_id", type: "Field" });
const tokenOf = (amount) => ({ from: `token, ${amount}`, to: `free, ${amount}`, wire: "token", type: "Field" });
const BOUND = {
  ctc: {
    "C1.3": custodyOf("custody_id(trader, solver, terms_hi, terms_lo, salt)"),
    "C3.1": custodyOf("inner(custody, in_blinding[1])", "inner(free, in_blinding[1])"),
    "C3.2": tokenOf("in_amount[1]"),
    "C3.3": tokenOf("out_amount[0]"),
    "C3.4": tokenOf("out_amount[1]"),
    "C7.1": { from: "digest_bytes(digest_hi, digest_lo)", to: "free", wire: "digest", type: "[u8; 32]" },
  },
  cta: {
    "C1.3": custodyOf("custody_id(trader, solver, terms_hi, terms_lo, salt)"),
    "C3.1": custodyOf("inner(custody, in_blinding[1])", "inner(free, in_blinding[1])"),
    "C3.2": tokenOf("in_amount[0]"),
    "C3.3": tokenOf("in_amount[1]"),
    "C3.4": custodyOf("inner(custody, change_blinding)", "inner(free, change_blinding)"),
    "C3.5": tokenOf("change_amount"),
    "C7.1": { from: "digest_bytes(digest_hi, digest_lo)", to: "free", wire: "digest", type: "[u8; 32]" },
  },
};

/** A line that only checks, and so can be dropped whole. */
const CHECK = /^\s*(assert\(.*\)|[\w[\]]+\.assert_max_bit_size::<\d+>\(\));\s*\/\/ \[/;

/** Markers in the order of `source`. */
export const markersOf = (source) => [...source.matchAll(/\/\/ \[(C\d+\.\d+)\]/g)].map(([, marker]) => marker);

/** `source` of circuit `name` without the constraint `marker`: {source, bound}. */
export function mutate(source, name, marker) {
  const lines = source.split("\n");
  const at = lines.findIndex((line) => line.includes(`// [${marker}]`));
  const bound = BOUND[name][marker];
  if (!bound) {
    if (!CHECK.test(lines[at])) throw new Error(`${name} ${marker}: neither a check nor known as binding`);
    lines[at] = "";
    return { source: lines.join("\n") };
  }
  if (lines[at].split(bound.from).length !== 2) throw new Error(`${name} ${marker}: «${bound.from}» not found`);
  lines[at] = lines[at].replace(bound.from, bound.to);
  const end = lines.indexOf(") {");
  lines.splice(end, 0, `    free: ${bound.type},`);
  return { source: lines.join("\n"), bound };
}

/** The honest value of the wire that a mutant sets free, from a case's own inputs. */
async function honest(formulas, wire, inputs) {
  if (wire === "token") return hex(inputs.token);
  if (wire === "digest") {
    const limbs = [inputs.digest_hi, inputs.digest_lo].map((limb) => limb.slice(2).padStart(32, "0").slice(-32));
    return [...Buffer.from(limbs.join(""), "hex")];
  }
  const custody = {
    trader: { x: inputs.trader_x, y: inputs.trader_y },
    solver: { x: inputs.solver_x, y: inputs.solver_y },
    terms: [BigInt(inputs.terms_hi), BigInt(inputs.terms_lo)],
    salt: BigInt(inputs.salt),
  };
  return hex(await formulas.custodyId(custody));
}

/** Whether `circuit` has a witness for `inputs`. Anything but a plain no is an error of the test. */
export async function satisfiable(circuit, inputs) {
  try {
    await circuit.witness(inputs);
    return true;
  } catch (error) {
    if (error.code === "unsatisfied") return false;
    throw error;
  }
}

async function mutateCircuit(formulas, name, only) {
  const path = join(REPO, "circuits", name, "src", "main.nr");
  const source = readFileSync(path, "utf8");
  const markers = markersOf(source);
  const cases = await CASES[name](formulas);
  const unknown = new Set(cases.flatMap(({ by }) => by).filter((marker) => !markers.includes(marker)));
  if (unknown.size) throw new Error(`${name}: cases name constraints that are not there: ${[...unknown]}`);
  const workshop = mkdtempSync(join(tmpdir(), "psymm-mutants-"));
  let failures = 0;
  try {
    cpSync(join(REPO, "circuits"), workshop, { recursive: true });
    console.log(`\n${name}: ${cases.length} cases, ${markers.length} constraints`);
    console.log("constraint  own tests  others  verdict");
    for (const marker of only.length ? only : markers) {
      const { source: mutant, bound } = mutate(source, name, marker);
      writeFileSync(join(workshop, name, "src", "main.nr"), mutant);
      const circuit = new Circuit(name, await compile(join(workshop, name), { warnings: true }), new Uint8Array());
      let own = 0;
      const wrong = [];
      for (const { name: title, by, inputs, free } of cases) {
        const value = bound && {
          free: bound.wire in (free ?? {})
            ? (typeof free[bound.wire] === "bigint" ? hex(free[bound.wire]) : free[bound.wire])
            : await honest(formulas, bound.wire, inputs),
        };
        const mine = by.includes(marker);
        const passes = await satisfiable(circuit, { ...inputs, ...value });
        if (mine && passes) own += 1;
        if (passes !== (mine || by.length === 0)) wrong.push(`${passes ? "passes" : "is refused"}: ${title}`);
      }
      const count = cases.filter(({ by }) => by.includes(marker)).length;
      const verdict = count === 0 ? "NO TEST" : wrong.length ? (own < count ? "SURVIVES" : "LEAKS") : "noticed";
      if (verdict !== "noticed") failures += 1;
      console.log(
        `${marker.padEnd(11)} ${`${own}/${count}`.padStart(9)}  ${String(cases.length - count).padStart(6)}  ${verdict}`,
      );
      for (const line of wrong) console.log(`              ${line}`);
    }
  } finally {
    rmSync(workshop, { recursive: true });
  }
  return failures;
}

async function main([name, ...markers]) {
  const bb = startBarretenberg();
  let failures = 0;
  try {
    const formulas = new Formulas(hasher(bb));
    for (const circuit of name ? [name] : CIRCUITS) {
      failures += await mutateCircuit(formulas, circuit, markers);
    }
  } finally {
    await bb.destroy();
  }
  console.log(failures ? `\n${failures} constraints are not guarded by their own tests` : "\nevery constraint is guarded by its own tests");
  process.exitCode = failures ? 1 : 0;
}

if (import.meta.filename === process.argv[1]) await main(process.argv.slice(2));
