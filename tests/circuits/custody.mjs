// A witness builder: what a party knows, turned into the circuits' inputs, with the formulas of
// design.md section 5. Poseidon2 is Barretenberg's own, so nothing of ours checks itself.

import { createRequire } from "node:module";
import { randomBytes } from "node:crypto";
import { sign, wallet } from "./secp256k1.mjs";

const require = createRequire(new URL("../../node/package.json", import.meta.url));
const { keccak256 } = require("js-sha3");

export const MODULUS = 0x30644e72e131a029b85045b68181585d2833e84879b9709143e1f593f0000001n;
export const MAX_DEPTH = 32;
export const hex = (value) => `0x${BigInt(value).toString(16)}`;
export const randomField = () => BigInt(`0x${randomBytes(40).toString("hex")}`) % MODULUS;
const word = (value) => Buffer.from(BigInt(value).toString(16).padStart(64, "0"), "hex");
export const number = (bytes) => BigInt(`0x${Buffer.from(bytes).toString("hex")}`);
export const keccak = (bytes) => Buffer.from(keccak256.arrayBuffer(bytes));
export const halves = (bytes) => [number(bytes.slice(0, 16)), number(bytes.slice(16))];

/** H_n over integers, by the running Barretenberg `bb`. */
export const hasher = (bb) => async (...inputs) =>
  number((await bb.poseidon2Hash({ inputs: inputs.map((input) => new Uint8Array(word(input))) })).hash);

/** A LeanIMT with its paths in the circuits' form: {length, index, siblings}. */
export class Tree {
  constructor(hash, leaves) {
    this.hash = hash;
    this.leaves = leaves;
  }

  async path(at) {
    let level = this.leaves;
    let index = 0;
    const siblings = [];
    while (level.length > 1) {
      const sibling = level[at ^ 1];
      if (sibling !== undefined) {
        index += (at & 1) * 2 ** siblings.length;
        siblings.push(sibling);
      }
      const next = [];
      for (let i = 0; i < level.length; i += 2) {
        next.push(i + 1 < level.length ? await this.hash(level[i], level[i + 1]) : level[i]);
      }
      level = next;
      at >>= 1;
    }
    return { root: level[0] ?? 0n, length: siblings.length, index, siblings };
  }
}

/** Formulas of a custody over `hash`. A custody is {trader, solver, terms, salt}, wallets as keys. */
export class Formulas {
  constructor(hash) {
    this.hash = hash;
  }

  key({ x, y }) {
    return this.hash(...halves(x), ...halves(y));
  }

  async custodyId({ trader, solver, terms: [hi, lo], salt }) {
    return this.hash(await this.key(trader), await this.key(solver), hi, lo, salt);
  }

  inner(custodyId, blinding) {
    return this.hash(custodyId, blinding);
  }

  commitment(inner, token, amount) {
    return this.hash(inner, token, amount);
  }

  nullifier(commitment, blinding) {
    return this.hash(commitment, blinding, 1n);
  }

  /** A note with its names: {custody, token, amount, blinding, inner, commitment, nullifier}. */
  async note(custody, token, amount, blinding = randomField()) {
    const inner = await this.inner(await this.custodyId(custody), blinding);
    const commitment = await this.commitment(inner, token, amount);
    const nullifier = await this.nullifier(commitment, blinding);
    return { custody, token, amount, blinding, inner, commitment, nullifier };
  }
}

/** A custody between two new wallets, or one's own sole custody. */
export function newCustody({ sole = false } = {}) {
  const trader = wallet();
  if (sole) return { trader, solver: trader, terms: [0n, 0n], salt: 0n };
  return { trader, solver: wallet(), terms: halves(randomBytes(32)), salt: randomField() };
}

const TYPES = {
  domain: "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)",
  ctc: "CustodyToCustody(bytes32 nullifier0,bytes32 nullifier1,bytes32 commitment0,bytes32 commitment1,address relayer,address feeToken,uint256 fee,bytes32 memos,uint256 deadline)",
  cta: "CustodyToAddress(bytes32 nullifier0,bytes32 nullifier1,bytes32 change,address token,uint256 amount,address recipient,address relayer,uint256 fee,bytes32 memos,uint256 deadline)",
};

/** The EIP-712 digest of a move: its values in the type's order, in the contract at `verifying`. */
export function digestOf(move, values, { chainId = 31337n, verifying = 0x5afen } = {}) {
  const domain = keccak(
    Buffer.concat([
      keccak(TYPES.domain),
      keccak("pSymm"),
      keccak("1"),
      word(chainId),
      word(verifying),
    ]),
  );
  const struct = keccak(Buffer.concat([keccak(TYPES[move]), ...values.map(word)]));
  return keccak(Buffer.concat([Buffer.from([0x19, 0x01]), domain, struct]));
}

const pathInputs = (paths) => ({
  path_length: paths.map(({ length }) => length),
  path_index: paths.map(({ index }) => index),
  path_siblings: paths.map(({ siblings }) =>
    Array.from({ length: MAX_DEPTH }, (_, i) => hex(siblings[i] ?? 0n)),
  ),
});

const custodyInputs = ({ trader, solver, terms, salt }, digest, { signers, high }) => ({
  digest_hi: hex(halves(digest)[0]),
  digest_lo: hex(halves(digest)[1]),
  trader_x: trader.x,
  trader_y: trader.y,
  solver_x: solver.x,
  solver_y: solver.y,
  terms_hi: hex(terms[0]),
  terms_lo: hex(terms[1]),
  salt: hex(salt),
  trader_signature: sign(signers?.trader ?? trader, digest, { high: high === "trader" }),
  solver_signature: sign(signers?.solver ?? solver, digest, { high: high === "solver" }),
});

const NO_PATH = { length: 0, index: 0, siblings: [] };

const noteInputs = ([note0, note1], paths, empty1) => ({
  in_blinding: [hex(note0.blinding), hex(note1.blinding)],
  in_amount: [hex(note0.amount), hex(note1.amount)],
  empty1,
  ...pathInputs(paths),
});

/**
 * A move says what goes in and out; what it says beyond that (`signers`, `high`, `feeToken`,
 * `commitments`, `changeCustody` …) takes the place of what an honest party would put there, and
 * the digest and the signatures follow it.
 *
 * Inputs of a CTC that spends `notes` (two; the second absent from the tree if `empty1`) of
 * `custody` into `outputs` ({inner, amount} each). `root` and `paths` come from the tree.
 */
export async function ctcInputs(formulas, move) {
  const { custody, token, notes, outputs, root, paths, empty1 = false } = move;
  const { fee = 0n, relayer = fee ? 0xfeen : 0n, memos = 0n, deadline = 300n } = move;
  const { feeToken = fee ? token : 0n } = move;
  const commitments =
    move.commitments ??
    (await Promise.all(
      outputs.map(({ inner, amount }) => formulas.commitment(inner, token, amount)),
    ));
  const digest = digestOf("ctc", [
    ...notes.map((note) => note.nullifier), ...commitments, relayer, feeToken, fee, memos, deadline,
  ]);
  return {
    root: hex(root),
    nullifier0: hex(notes[0].nullifier),
    nullifier1: hex(notes[1].nullifier),
    commitment0: hex(commitments[0]),
    commitment1: hex(commitments[1]),
    fee_token: hex(feeToken),
    fee: hex(fee),
    ...custodyInputs(custody, digest, move),
    token: hex(token),
    ...noteInputs(notes, [paths[0], paths[1] ?? NO_PATH], empty1),
    out_inner: outputs.map(({ inner }) => hex(inner)),
    out_amount: outputs.map(({ amount }) => hex(amount)),
  };
}

/** Inputs of a CTA that takes `amount` out of `notes`, the rest going into a new note. */
export async function ctaInputs(formulas, move) {
  const { custody, token, notes, amount, root, paths, empty1 = false } = move;
  const { fee = 0n, relayer = fee ? 0xfeen : 0n, recipient = 0xb0bn, memos = 0n, deadline = 300n } = move;
  const changeBlinding = randomField();
  const changeAmount = move.changeAmount ?? notes[0].amount + notes[1].amount - amount;
  const committed = await formulas.note(
    move.changeCustody ?? custody,
    move.changeToken ?? token,
    move.committedChange ?? changeAmount,
    changeBlinding,
  );
  const change = move.changeCommitment ?? committed.commitment;
  const digest = digestOf("cta", [
    ...notes.map((note) => note.nullifier), change, token, amount, recipient, relayer,
    fee, memos, deadline,
  ]);
  return {
    root: hex(root),
    nullifier0: hex(notes[0].nullifier),
    nullifier1: hex(notes[1].nullifier),
    change: hex(change),
    token: hex(token),
    amount: hex(amount),
    ...custodyInputs(custody, digest, move),
    ...noteInputs(notes, [paths[0], paths[1] ?? NO_PATH], empty1),
    change_blinding: hex(changeBlinding),
    change_amount: hex(changeAmount),
  };
}
