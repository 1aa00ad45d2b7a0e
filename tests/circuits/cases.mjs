// Witnesses good and bad, each bad one wrong in one thing only.
//
// A case is {name, by, inputs, free}. `by` names the constraints (markers in the circuit's source)
// any one of which, taken away, lets the witness pass; an empty list: it passes as things are.
// `free` gives the value that a mutant's unbound wire takes where it is not the honest one.
//
// The tree of most cases, `*` the notes of the custody:
//
//                    root
//                  /      \
//              N(0..3)     \
//              /     \      \
//            N01     N23     N45
//           /  \    /   \    /  \
//          L0  *1  *2   L3  L4  L5       *1 note a (1000)   L3 note of another custody (1000)
//                                        *2 note b (500)    L4 note of another token (1000)
//
// `b` sits at a left leaf and `a` at a right one, so every path mixes both sides.

import {
  ctaInputs, ctcInputs, digestOf, hex, MAX_DEPTH, MODULUS, newCustody, randomField, Tree,
} from "./custody.mjs";
import { wallet } from "./secp256k1.mjs";

const TOKEN = 0xc011a7e4a1n;
const OTHER_TOKEN = 0xbad70ce2n;
const LIMIT = 2n ** 128n;

/** A custody with two notes in a tree, beside strangers. */
async function stage(formulas, { amounts = [1000n, 500n], custody = newCustody() } = {}) {
  const a = await formulas.note(custody, TOKEN, amounts[0]);
  const b = await formulas.note(custody, TOKEN, amounts[1]);
  const empty = await formulas.note(custody, TOKEN, 0n);
  const foreign = await formulas.note(newCustody(), TOKEN, 1000n);
  const exotic = await formulas.note(custody, OTHER_TOKEN, 1000n);
  const leaves = [
    randomField(), a.commitment, b.commitment, foreign.commitment, exotic.commitment, randomField(),
  ];
  const tree = new Tree(formulas.hash, leaves);
  const path = (note) => tree.path(leaves.indexOf(note.commitment));
  const { root } = await tree.path(0);
  return { custody, a, b, empty, foreign, exotic, path, root };
}

/** A tree of the full depth around two leaves that are each other's siblings. */
async function deepPaths(formulas, left, right) {
  const above = Array.from({ length: MAX_DEPTH - 1 }, randomField);
  let root = await formulas.hash(left, right);
  const bits = above.map(() => Number(randomField() & 1n));
  for (const [level, sibling] of above.entries()) {
    root = bits[level] ? await formulas.hash(sibling, root) : await formulas.hash(root, sibling);
  }
  const index = bits.reduce((sum, bit, level) => sum + bit * 2 ** (level + 1), 0);
  return {
    root,
    paths: [
      { length: MAX_DEPTH, index, siblings: [right, ...above] },
      { length: MAX_DEPTH, index: index + 1, siblings: [left, ...above] },
    ],
  };
}

const flip = (value) => hex(BigInt(value) ^ 1n);
const list = () => {
  const cases = [];
  const good = (name, inputs) => cases.push({ name, by: [], inputs });
  const bad = (name, by, inputs, free) => cases.push({ name, by: by.split(" "), inputs, free });
  return { cases, good, bad };
};

/**
 * What both circuits share, told through `spend(formulas, move)`, which makes the inputs of a move
 * that is sound but for what `move` says, and `mark`, which maps a subject to its marker.
 */
async function sharedCases(formulas, spend, mark, { good, bad }) {
  const scene = await stage(formulas);
  const { custody, a, b, empty, foreign, exotic, path, root } = scene;
  const two = { custody, notes: [a, b], root, paths: [await path(a), await path(b)] };
  const one = { custody, notes: [a, empty], root, paths: [await path(a)], empty1: true };
  const honest = await spend(formulas, two);
  const single = await spend(formulas, one);
  const withDigest = (inputs, digest) => ({
    ...inputs,
    digest_hi: `0x${digest.toString("hex", 0, 16)}`,
    digest_lo: `0x${digest.toString("hex", 16)}`,
  });
  const digestBytes = (inputs) => [
    ...Buffer.from(
      [inputs.digest_hi, inputs.digest_lo].map((limb) => limb.slice(2).padStart(32, "0")).join(""),
      "hex",
    ),
  ];

  good("two notes of a custody", honest);
  good("one note and an empty one", single);
  good("a sole custody, one owner under both keys", await (async () => {
    const own = await stage(formulas, { custody: newCustody({ sole: true }) });
    return spend(formulas, {
      custody: own.custody, notes: [own.a, own.b], root: own.root,
      paths: [await own.path(own.a), await own.path(own.b)],
    });
  })());
  good("a tree of one leaf", await spend(formulas, {
    ...one, root: a.commitment, paths: [{ length: 0, index: 0, siblings: [] }],
  }));
  const deep = await deepPaths(formulas, a.commitment, b.commitment);
  const deepest = await spend(formulas, { ...two, ...deep });
  good("paths of all 32 levels", deepest);
  good("an empty note that is in the tree with amount 0", await (async () => {
    const leaves = [a.commitment, empty.commitment];
    const tree = new Tree(formulas.hash, leaves);
    const paths = [await tree.path(0), await tree.path(1)];
    return spend(formulas, { ...two, notes: [a, empty], root: paths[0].root, paths });
  })());

  // 1. The custody.
  for (const [half, marker] of [[0, "C1.1"], [1, "C1.2"]]) {
    const terms = [...custody.terms];
    terms[half] += LIMIT;
    const wide = await stage(formulas, { custody: { ...custody, terms } });
    bad(`a half of the terms' hash of more than 128 bits (${half})`, marker, await spend(formulas, {
      custody: wide.custody, notes: [wide.a, wide.empty], root: wide.root,
      paths: [await wide.path(wide.a)], empty1: true,
    }));
  }
  const owner = { custody_id: await formulas.custodyId(custody) };
  const thief = wallet();
  for (const [name, opening] of [
    ["another trader's key", { trader: thief }],
    ["another solver's key", { solver: thief }],
    ["both keys another's", { trader: thief, solver: thief }],
    ["other terms", { terms: [custody.terms[0], custody.terms[1] ^ 1n] }],
    ["another salt", { salt: custody.salt ^ 1n }],
    ["the keys the other way round", { trader: custody.solver, solver: custody.trader }],
  ]) {
    bad(`a custody opened with ${name}`, mark.custody, await spend(formulas, {
      ...two, custody: { ...custody, ...opening }, changeCustody: custody,
    }), owner);
  }

  // 2. Both signatures.
  for (const [lane, other, marker] of [["trader", "solver", "C2.1"], ["solver", "trader", "C2.2"]]) {
    const field = `${lane}_signature`;
    bad(`the ${lane}'s signature by another key`, marker,
      await spend(formulas, { ...two, signers: { [lane]: thief } }));
    bad(`the ${other}'s signature in the ${lane}'s place`, marker,
      { ...honest, [field]: honest[`${other}_signature`] });
    bad(`the ${lane}'s signature over another move`, marker, { ...honest, [field]: single[field] });
    bad(`no signature of the ${lane}`, marker, { ...honest, [field]: Array(64).fill(0) });
    bad(`the ${lane}'s signature with high s`, marker,
      await spend(formulas, { ...two, high: lane }));
  }

  // 3. One custody, one token.
  bad("a second note of another custody", mark.oneCustody, await spend(formulas, {
    ...two, notes: [a, foreign], paths: [await path(a), await path(foreign)],
  }), { custody_id: await formulas.custodyId(foreign.custody) });
  bad("a second note of another token", mark.secondToken, await spend(formulas, {
    ...two, notes: [a, exotic], paths: [await path(a), await path(exotic)],
  }), { token: OTHER_TOKEN });

  // 4. Amounts of the inputs.
  const rich = await stage(formulas, { amounts: [LIMIT + 10n, LIMIT] });
  const richOne = async (note) => spend(formulas, {
    custody: rich.custody, notes: [note, rich.empty], root: rich.root, paths: [await rich.path(note)],
    empty1: true,
  });
  bad("a first note of more than 128 bits", "C4.1", await richOne(rich.a));
  bad("a first note of 2^128", "C4.1", await richOne(rich.b));
  const second = await stage(formulas, { amounts: [10n, LIMIT] });
  bad("a second note of 2^128", "C4.2", await spend(formulas, {
    custody: second.custody, notes: [second.a, second.b], root: second.root,
    paths: [await second.path(second.a), await second.path(second.b)],
  }));

  // 6. Names on chain.
  const wrongWord = await formulas.hash(a.commitment, a.blinding, 2n);
  bad("a nullifier of one's choosing", mark.nullifier0,
    await spend(formulas, { ...two, notes: [{ ...a, nullifier: randomField() }, b] }));
  bad("a second nullifier for one note, by another last word", mark.nullifier0,
    await spend(formulas, { ...two, notes: [{ ...a, nullifier: wrongWord }, b] }));
  bad("a second nullifier of one's choosing", mark.nullifier1,
    await spend(formulas, { ...two, notes: [a, { ...b, nullifier: randomField() }] }));
  bad("an empty note's nullifier of one's choosing", mark.nullifier1,
    await spend(formulas, { ...one, notes: [a, { ...empty, nullifier: randomField() }] }));
  bad("one note twice", mark.twice,
    await spend(formulas, { ...two, notes: [a, a], paths: [await path(a), await path(a)] }));
  const onePath = { ...one, root: deep.root, paths: [{ ...deep.paths[0], length: MAX_DEPTH + 1 }] };
  bad("a path of 33 levels", mark.length0, await spend(formulas, onePath));
  bad("a second path of 33 levels", mark.length1, {
    ...deepest, path_length: [MAX_DEPTH, MAX_DEPTH + 1],
  });

  const stranger = await formulas.note(custody, TOKEN, 1000n);
  bad("a note that was never inserted", mark.member0,
    await spend(formulas, { ...one, notes: [stranger, empty] }));
  bad("an empty note as the only one", mark.member0, await spend(formulas, {
    ...one, notes: [empty, await formulas.note(custody, TOKEN, 0n)],
  }));
  bad("another root", mark.member0, { ...single, root: hex(randomField()) });
  const [first, rest] = honest.path_siblings;
  bad("a path with a wrong sibling", mark.member0,
    { ...honest, path_siblings: [[first[0], flip(first[1]), ...first.slice(2)], rest] });
  bad("a path with a wrong turn", mark.member0,
    { ...honest, path_index: [honest.path_index[0] ^ 1, honest.path_index[1]] });
  bad("a path cut short", mark.member0, { ...honest, path_length: [2, honest.path_length[1]] });
  bad("a path with a level too many", mark.member0, { ...honest, path_length: [4, honest.path_length[1]] });
  bad("a second note that was never inserted", mark.member1,
    await spend(formulas, { ...two, notes: [a, stranger] }));
  bad("a second path with a wrong sibling", mark.member1,
    { ...honest, path_siblings: [first, [flip(rest[0]), ...rest.slice(1)]] });
  bad("a second path with a wrong turn", mark.member1,
    { ...honest, path_index: [honest.path_index[0], honest.path_index[1] ^ 1] });
  bad("an empty note with an amount", mark.emptyAmount,
    await spend(formulas, { ...one, notes: [a, stranger] }));

  // 7. The digest.
  const signed = { digest: digestBytes(honest) };
  bad("a digest's high limb of more than 128 bits", "C7.1",
    { ...honest, digest_hi: hex(BigInt(honest.digest_hi) + LIMIT) }, signed);
  bad("a digest's low limb of more than 128 bits", "C7.1",
    { ...honest, digest_lo: hex(BigInt(honest.digest_lo) + LIMIT) }, signed);
  bad("a low limb that has taken a bit from the high one", "C7.1", {
    ...honest,
    digest_hi: hex(BigInt(honest.digest_hi) - 1n),
    digest_lo: hex(BigInt(honest.digest_lo) + LIMIT),
  }, signed);
  return { two, one, honest, scene, signed, withDigest };
}

/** Cases of the CTC. */
export async function ctcCases(formulas) {
  const out = list();
  const { bad, good } = out;
  // Sound outputs for whatever goes in: the first takes what fits, the second the rest.
  const spend = async (f, move) => {
    const sum = move.notes[0].amount + move.notes[1].amount - (move.fee ?? 0n);
    const first = move.first ?? (sum >= LIMIT ? LIMIT - 1n : sum / 3n);
    const outputs = move.outputs ?? [
      { inner: randomField(), amount: first },
      { inner: randomField(), amount: sum - first },
    ];
    return ctcInputs(f, { token: TOKEN, ...move, outputs });
  };
  const { two, one, honest, signed, withDigest } = await sharedCases(formulas, spend, {
    custody: "C1.3", oneCustody: "C3.1", secondToken: "C3.2", nullifier0: "C6.1", nullifier1: "C6.2",
    twice: "C6.3", length0: "C6.6", length1: "C6.7", member0: "C6.8", member1: "C6.9",
    emptyAmount: "C6.10",
  }, out);
  const amounts = (first, second) => [
    { inner: randomField(), amount: first },
    { inner: randomField(), amount: second },
  ];
  const ctc = (move) => spend(formulas, { ...two, ...move });

  good("a fee that names its token", await ctc({ fee: 7n }));
  good("everything into one output, the other of amount 0", await ctc({ outputs: amounts(1500n, 0n) }));
  good("the largest amounts there are", await (async () => {
    const rich = await stage(formulas, { amounts: [LIMIT - 1n, LIMIT - 1n] });
    return spend(formulas, {
      custody: rich.custody, notes: [rich.a, rich.b], root: rich.root,
      paths: [await rich.path(rich.a), await rich.path(rich.b)],
      outputs: amounts(LIMIT - 1n, LIMIT - 1n),
    });
  })());

  bad("outputs in another token: the first", "C3.3 C6.4", await (async () => {
    const inputs = await ctc({});
    const commitment = await formulas.commitment(inputs.out_inner[0], OTHER_TOKEN, inputs.out_amount[0]);
    return ctc({
      outputs: inputs.out_inner.map((inner, i) => ({ inner: BigInt(inner), amount: BigInt(inputs.out_amount[i]) })),
      commitments: [commitment, BigInt(inputs.commitment1)],
    });
  })(), { token: OTHER_TOKEN });
  bad("outputs in another token: the second", "C3.4 C6.5", await (async () => {
    const inputs = await ctc({});
    const commitment = await formulas.commitment(inputs.out_inner[1], OTHER_TOKEN, inputs.out_amount[1]);
    return ctc({
      outputs: inputs.out_inner.map((inner, i) => ({ inner: BigInt(inner), amount: BigInt(inputs.out_amount[i]) })),
      commitments: [BigInt(inputs.commitment0), commitment],
    });
  })(), { token: OTHER_TOKEN });

  bad("an amount below zero in the first output", "C4.3", await ctc({ outputs: amounts(MODULUS - 50n, 1550n) }));
  bad("an amount below zero in the second output", "C4.4", await ctc({ outputs: amounts(1550n, MODULUS - 50n) }));
  bad("a fee below zero", "C4.5", await ctc({ fee: MODULUS - 50n, outputs: amounts(1000n, 550n) }));
  const brim = await stage(formulas, { amounts: [LIMIT - 1n, 1n] });
  const brimful = {
    custody: brim.custody, notes: [brim.a, brim.b], root: brim.root,
    paths: [await brim.path(brim.a), await brim.path(brim.b)],
  };
  bad("a first output of 2^128", "C4.3", await spend(formulas, { ...brimful, outputs: amounts(LIMIT, 0n) }));
  bad("a second output of 2^128", "C4.4", await spend(formulas, { ...brimful, outputs: amounts(0n, LIMIT) }));
  bad("a fee of 2^128", "C4.5", await spend(formulas, { ...brimful, fee: LIMIT, outputs: amounts(0n, 0n) }));

  bad("a unit more out than in", "C5.1", await ctc({ outputs: amounts(1000n, 501n) }));
  bad("a unit lost", "C5.1", await ctc({ outputs: amounts(1000n, 499n) }));
  bad("a fee that the outputs do not pay", "C5.1", await ctc({ fee: 7n, outputs: amounts(1000n, 500n) }));
  bad("an empty note counted twice", "C5.1", await spend(formulas, { ...one, outputs: amounts(1000n, 1000n) }));
  bad("a fee in another token", "C5.2", await ctc({ fee: 7n, feeToken: OTHER_TOKEN }));
  bad("a fee without a token", "C5.2", await ctc({ fee: 7n, feeToken: 0n }));
  bad("the token shown without a fee", "C5.3", await ctc({ feeToken: TOKEN }));
  bad("another token shown without a fee", "C5.3", await ctc({ feeToken: OTHER_TOKEN }));

  const plain = await ctc({ outputs: amounts(700n, 800n) });
  for (const [i, marker] of [[0, "C6.4"], [1, "C6.5"]]) {
    const more = await formulas.commitment(plain.out_inner[i], TOKEN, BigInt(plain.out_amount[i]) + 1n);
    const commitments = [BigInt(plain.commitment0), BigInt(plain.commitment1)];
    commitments[i] = more;
    bad(`commitment ${i} worth a unit more than its output`, marker, await ctc({
      outputs: plain.out_inner.map((inner, k) => ({ inner: BigInt(inner), amount: BigInt(plain.out_amount[k]) })),
      commitments,
    }));
    commitments[i] = randomField();
    bad(`commitment ${i} of one's choosing`, marker, await ctc({
      outputs: plain.out_inner.map((inner, k) => ({ inner: BigInt(inner), amount: BigInt(plain.out_amount[k]) })),
      commitments,
    }));
  }

  // Whatever the contract hashes, changed after the signatures.
  const names = ["nullifier 0", "nullifier 1", "commitment 0", "commitment 1", "relayer", "fee's token", "fee", "memos", "deadline"];
  const values = [honest.nullifier0, honest.nullifier1, honest.commitment0, honest.commitment1, 0, 0, 0, 0, 300].map(BigInt);
  for (const [i, name] of names.entries()) {
    const digest = digestOf("ctc", values.map((value, k) => (k === i ? value + 1n : value)));
    bad(`signatures over another ${name}`, "C7.1", withDigest(honest, digest), signed);
  }
  bad("signatures for another chain", "C7.1", withDigest(honest, digestOf("ctc", values, { chainId: 1n })), signed);
  bad("signatures for another contract", "C7.1", withDigest(honest, digestOf("ctc", values, { verifying: 1n })), signed);
  return out.cases;
}

/** Cases of the CTA. */
export async function ctaCases(formulas) {
  const out = list();
  const { bad, good } = out;
  const spend = (f, move) => {
    const sum = move.notes[0].amount + move.notes[1].amount;
    const amount = move.amount ?? (sum >= LIMIT ? LIMIT - 1n : sum / 3n);
    return ctaInputs(f, { token: TOKEN, ...move, amount });
  };
  const { two, one, honest, scene, signed, withDigest } = await sharedCases(formulas, spend, {
    custody: "C1.3", oneCustody: "C3.1", secondToken: "C3.3", nullifier0: "C6.1", nullifier1: "C6.2",
    twice: "C6.3", length0: "C6.5", length1: "C6.6", member0: "C6.7", member1: "C6.8",
    emptyAmount: "C6.9",
  }, out);
  const cta = (move) => spend(formulas, { ...two, ...move });
  const { custody, exotic, path, root } = scene;

  good("everything taken out, a change of 0", await cta({ amount: 1500n }));
  good("nothing taken out", await cta({ amount: 0n }));
  good("with a relayer's fee", await cta({ amount: 900n, fee: 7n }));
  good("the largest amounts there are", await (async () => {
    const rich = await stage(formulas, { amounts: [LIMIT - 1n, LIMIT - 1n] });
    return spend(formulas, {
      custody: rich.custody, notes: [rich.a, rich.b], root: rich.root,
      paths: [await rich.path(rich.a), await rich.path(rich.b)], amount: LIMIT - 1n,
    });
  })());

  bad("another token taken out than went in", "C3.2", await spend(formulas, {
    ...one, custody, notes: [exotic, await formulas.note(custody, TOKEN, 0n)], root, paths: [await path(exotic)],
  }), { token: OTHER_TOKEN });
  const stranger = newCustody();
  bad("a change that leaves the custody", "C3.4 C6.4", await cta({ changeCustody: stranger }),
    { custody_id: await formulas.custodyId(stranger) });
  bad("a change in another token", "C3.5 C6.4", await cta({ changeToken: OTHER_TOKEN }), { token: OTHER_TOKEN });

  bad("a change below zero", "C4.3", await cta({ amount: 1550n, changeAmount: MODULUS - 50n }));
  bad("an amount below zero", "C4.4", await cta({ amount: MODULUS - 50n, changeAmount: 1550n }));
  const brim = await stage(formulas, { amounts: [LIMIT - 1n, 1n] });
  const brimful = {
    custody: brim.custody, notes: [brim.a, brim.b], root: brim.root,
    paths: [await brim.path(brim.a), await brim.path(brim.b)],
  };
  bad("a change of 2^128", "C4.3", await spend(formulas, { ...brimful, amount: 0n, changeAmount: LIMIT }));
  bad("an amount of 2^128", "C4.4", await spend(formulas, { ...brimful, amount: LIMIT, changeAmount: 0n }));

  bad("a unit more out than in", "C5.1", await cta({ amount: 501n, changeAmount: 1000n }));
  bad("a unit lost", "C5.1", await cta({ amount: 499n, changeAmount: 1000n }));
  bad("an empty note counted twice", "C5.1", await spend(formulas, { ...one, amount: 1000n, changeAmount: 1000n }));

  bad("a change worth a unit more", "C6.4", await cta({ amount: 500n, committedChange: 1001n }));
  bad("a change of one's choosing", "C6.4", await cta({ amount: 500n, changeCommitment: randomField() }));

  const names = ["nullifier 0", "nullifier 1", "change", "token", "amount", "recipient", "relayer", "fee", "memos", "deadline"];
  const values = [honest.nullifier0, honest.nullifier1, honest.change, honest.token, honest.amount, 0xb0b, 0, 0, 0, 300].map(BigInt);
  for (const [i, name] of names.entries()) {
    const digest = digestOf("cta", values.map((value, k) => (k === i ? value + 1n : value)));
    bad(`signatures over another ${name}`, "C7.1", withDigest(honest, digest), signed);
  }
  bad("signatures for another chain", "C7.1", withDigest(honest, digestOf("cta", values, { chainId: 1n })), signed);
  bad("signatures over the other kind of move", "C7.1", withDigest(honest, digestOf("ctc", values.slice(0, 9))), signed);
  return out.cases;
}

export const CASES = { ctc: ctcCases, cta: ctaCases };
