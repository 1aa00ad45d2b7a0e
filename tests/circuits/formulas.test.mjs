// Noir computes the hashes, names and roots of tests/vectors/poseidon2.json, which Barretenberg made
// and which Rust, Solidity and Python read too; and so does the builder that makes the witnesses of
// the other tests.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, it } from "node:test";
import { startBarretenberg } from "../../node/barretenberg.mjs";
import { compile } from "../../node/compile.mjs";
import { load } from "./acvm.mjs";
import { Formulas, halves, hasher, hex, MAX_DEPTH, randomField, Tree } from "./custody.mjs";

const { Noir } = load("@noir-lang/noir_js");
const vectors = JSON.parse(readFileSync(join(import.meta.dirname, "..", "vectors", "poseidon2.json"), "utf8"));
const octets = (text) => [...Buffer.from(text.slice(2), "hex")];
const keyOf = ({ x, y }) => ({ x: octets(x), y: octets(y) });
const custodyOf = ({ trader, solver, terms, salt }) => ({
  trader: keyOf(trader),
  solver: keyOf(solver),
  terms: halves(octets(terms)),
  salt: BigInt(salt),
});

let bb;
let formulas;
let noir;

before(async () => {
  bb = startBarretenberg();
  formulas = new Formulas(hasher(bb));
  noir = new Noir(await compile(join(import.meta.dirname, "formulas")));
});
after(() => bb.destroy());

/** What Noir computes of these values, and of ones elsewhere. */
async function noirOf(given) {
  const key = Array(32).fill(1);
  const inputs = {
    inputs: Array(10).fill("0x1"), key_x: key, key_y: key, other_x: key, other_y: key,
    terms_hi: "0x1", terms_lo: "0x1", salt: "0x1", note_custody: "0x1", blinding: "0x1", token: "0x1",
    amount: "0x1", leaf: "0x1", length: 0, index: 0, siblings: Array(MAX_DEPTH).fill("0x1"),
    ...given,
  };
  return (await noir.execute(inputs)).returnValue;
}

it("hashes as Barretenberg does", async () => {
  for (const { inputs, hash } of vectors.hashes) {
    const padded = Array.from({ length: 10 }, (_, i) => inputs[i] ?? hex(randomField()));
    const { hashes } = await noirOf({ inputs: padded });
    assert.equal(BigInt(hashes[inputs.length]), BigInt(hash), `${inputs.length} inputs: ${inputs}`);
    assert.equal(await formulas.hash(...inputs.map(BigInt)), BigInt(hash));
  }
});

it("gives hashes of zeros of different lengths different values", async () => {
  const { hashes } = await noirOf({ inputs: Array(10).fill("0x0") });
  assert.equal(new Set(hashes).size, 11);
});

it("names custodies by design.md's formula", async () => {
  for (const vector of vectors.custodies) {
    const custody = custodyOf(vector);
    const found = await noirOf({
      key_x: custody.trader.x, key_y: custody.trader.y,
      other_x: custody.solver.x, other_y: custody.solver.y,
      terms_hi: hex(custody.terms[0]), terms_lo: hex(custody.terms[1]), salt: vector.salt,
    });
    assert.equal(BigInt(found.key), BigInt(vector.trader.key));
    assert.equal(BigInt(found.custody_id), BigInt(vector.custodyId));
    assert.equal(await formulas.custodyId(custody), BigInt(vector.custodyId));
  }
});

it("names notes and their ends by design.md's formulas", async () => {
  for (const { custodyId, blinding, token, amount, inner, commitment, nullifier } of vectors.notes) {
    const found = await noirOf({ note_custody: custodyId, blinding, token, amount });
    assert.equal(BigInt(found.inner), BigInt(inner));
    assert.equal(BigInt(found.commitment), BigInt(commitment));
    assert.equal(BigInt(found.nullifier), BigInt(nullifier));
  }
});

//  1 leaf: the leaf is the root.   3 leaves: the last passes up once.   5: it passes up twice.
it("leads every leaf of a LeanIMT to its root, whatever lies beyond the path", async () => {
  for (const { size, root, proofs } of vectors.trees) {
    const tree = new Tree(formulas.hash, vectors.leaves.slice(0, size).map(BigInt));
    for (const { leafIndex, leaf, index, siblings } of proofs) {
      const padded = Array.from({ length: MAX_DEPTH }, (_, k) => siblings[k] ?? hex(randomField()));
      const found = await noirOf({ leaf, length: siblings.length, index, siblings: padded });
      assert.equal(BigInt(found.root), BigInt(root), `leaf ${leafIndex} of ${size}`);
      if (size < 10) {
        const path = await tree.path(leafIndex);
        assert.equal(path.root, BigInt(root));
        assert.deepEqual([path.index, path.siblings], [index, siblings.map(BigInt)]);
      }
    }
  }
});
