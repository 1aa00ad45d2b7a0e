// Every sound move has a witness, and no cheat has one. The cases, one a sentence, are in
// cases.mjs; `make mutate-circuits` shows that each constraint is what stops its own.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { startBarretenberg } from "../../node/barretenberg.mjs";
import { compile } from "../../node/compile.mjs";
import { ARTIFACTS, CIRCUITS, REPO } from "../../node/layout.mjs";
import { markersOf, mutate, satisfiable } from "../../node/mutate.mjs";
import { Circuit } from "../../node/prover.mjs";
import { CASES } from "./cases.mjs";
import { load } from "./acvm.mjs";
import { Formulas, hasher, MODULUS } from "./custody.mjs";

const { abi, acvm } = load("@noir-lang/noir_js");

/** Of an ABI type: how many wires it takes, and what each of them is. */
const width = (type) => (type.kind === "array" ? type.length * width(type.type) : 1);
const leaf = (type) => (type.kind === "array" ? leaf(type.type) : type);

let bb;
before(() => {
  bb = startBarretenberg();
});
after(() => bb.destroy());

for (const name of CIRCUITS) {
  describe(name, () => {
    const source = readFileSync(join(REPO, "circuits", name, "src", "main.nr"), "utf8");

    it("lets every sound move pass and stops every cheat", async (t) => {
      const circuit = new Circuit(name, await compile(join(REPO, "circuits", name)), new Uint8Array());
      const cases = await CASES[name](new Formulas(hasher(bb)));
      assert.ok(cases.some(({ by }) => by.length === 0));
      for (const { name: title, by, inputs } of cases) {
        await t.test(by.length ? `refuses ${title}` : `accepts ${title}`, async () => {
          assert.equal(await satisfiable(circuit, inputs), by.length === 0);
        });
      }
    });

    it("keeps every wire within its parameter's type, whoever encodes it", async (t) => {
      const program = await compile(join(REPO, "circuits", name));
      const [{ inputs }] = await CASES[name](new Formulas(hasher(bb)));
      const bytecode = Uint8Array.from(Buffer.from(program.bytecode, "base64"));
      const runs = (wires) =>
        acvm.executeProgram(bytecode, wires, async () => []).then(() => true, () => false);
      assert.ok(await runs(abi.abiEncode(program.abi, inputs)));

      let wire = 0;
      const tried = new Set();
      for (const { name: parameter, type } of program.abi.parameters) {
        const first = wire;
        wire += width(type);
        const { kind, width: bits = 1 } = leaf(type);
        if (kind === "field") continue;
        tried.add(kind === "boolean" ? kind : `u${bits}`);
        await t.test(`${parameter} above ${bits} bits`, async () => {
          for (const beyond of [2n ** BigInt(bits), MODULUS - 1n]) {
            const wires = abi.abiEncode(program.abi, inputs);
            wires.set(first, `0x${beyond.toString(16).padStart(64, "0")}`);
            assert.equal(await runs(wires), false);
          }
        });
      }
      assert.deepEqual([...tried].sort(), ["boolean", "u32", "u8"]);
    });

    it("has a cheat for every numbered constraint, and a number for every cheat", async () => {
      const cases = await CASES[name](new Formulas(hasher(bb)));
      assert.deepEqual([...new Set(cases.flatMap(({ by }) => by))].sort(), markersOf(source).sort());
    });

    it("numbers every assertion, each once", () => {
      const markers = markersOf(source);
      assert.equal(new Set(markers).size, markers.length);
      for (const line of source.split("\n")) {
        if (/assert/.test(line) && !/^\s*\/\//.test(line)) assert.match(line, /\/\/ \[C\d+\.\d+\]/);
      }
    });

    it("can lose any of its constraints to the mutation runner", () => {
      for (const marker of markersOf(source)) {
        assert.notEqual(mutate(source, name, marker).source, source);
      }
    });

    it("shows its public inputs in the order that the contract passes them", () => {
      const program = JSON.parse(readFileSync(join(ARTIFACTS, `${name}.json`), "utf8"));
      assert.deepEqual(
        program.abi.parameters.filter(({ visibility }) => visibility === "public").map((p) => p.name),
        {
          ctc: ["root", "nullifier0", "nullifier1", "commitment0", "commitment1", "fee_token", "fee", "digest_hi", "digest_lo"],
          cta: ["root", "nullifier0", "nullifier1", "change", "token", "amount", "digest_hi", "digest_lo"],
        }[name],
      );
    });

    it("is what the artifact was compiled from", async () => {
      const program = JSON.parse(readFileSync(join(ARTIFACTS, `${name}.json`), "utf8"));
      assert.deepEqual(program, await compile(join(REPO, "circuits", name)));
    });
  });
}
