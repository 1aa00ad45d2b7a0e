// The prover as the rest of the project meets it: a process, lines of JSON, proofs that a real
// verifier accepts, and refusals that say what to do and never what they were told.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, it } from "node:test";
import { startBarretenberg } from "../../node/barretenberg.mjs";
import { ARTIFACTS, DEV_CRS, REPO, RUNTIME, VERIFIERS } from "../../node/layout.mjs";
import { CASES } from "./cases.mjs";
import { Formulas, hasher, hex, MODULUS } from "./custody.mjs";
import { bytecodeOf, Devnet } from "./evm.mjs";

const PROVER = join(REPO, "node", "prover.mjs");

/** A prover process: `ask(request)` sends a line, `next()` resolves to the next line that it says. */
class ProverProcess {
  constructor({ path = PROVER, args = [], env = {} } = {}) {
    this.child = spawn(process.execPath, [path, ...args], {
      env: { ...process.env, CRS_PATH: DEV_CRS, ...env },
      stdio: ["pipe", "pipe", "pipe"],
    });
    this.said = [];
    this.stderr = "";
    this.child.stderr.on("data", (chunk) => (this.stderr += chunk));
    this.lines = createInterface({ input: this.child.stdout })[Symbol.asyncIterator]();
    this.exit = new Promise((resolve) => this.child.once("exit", (code, signal) => resolve(code ?? signal)));
  }

  async next() {
    const { value, done } = await this.lines.next();
    return done ? null : JSON.parse(value);
  }

  send(line) {
    this.child.stdin.write(`${typeof line === "string" ? line : JSON.stringify(line)}\n`);
  }

  async ask(request) {
    this.send(request);
    return this.next();
  }

  async end() {
    this.child.stdin.end();
    return this.exit;
  }
}

const moves = {};
let bb;
let devnet;
const verifiers = {};

before(async () => {
  bb = startBarretenberg();
  const formulas = new Formulas(hasher(bb));
  for (const name of ["ctc", "cta"]) {
    const cases = await CASES[name](formulas);
    moves[name] = Object.fromEntries(cases.map(({ name: title, inputs }) => [title, inputs]));
  }
  devnet = await Devnet.start();
  for (const [name, contract] of [["ctc", "CtcVerifier"], ["cta", "CtaVerifier"]]) {
    const source = readFileSync(join(VERIFIERS, `${contract}.sol`), "utf8");
    verifiers[name] = await devnet.deploy(bytecodeOf(contract, source));
  }
});
after(async () => {
  await devnet?.close();
  await bb?.destroy();
});

it("proves moves of both kinds, in the order asked, and ends when its input does", async () => {
  const prover = new ProverProcess();
  assert.equal((await prover.next()).ready, true);
  prover.send({ id: 1, circuit: "ctc", inputs: moves.ctc["a fee that names its token"] });
  prover.send({ id: "two", circuit: "cta", inputs: moves.cta["one note and an empty one"] });
  const [first, second] = [await prover.next(), await prover.next()];
  assert.equal(await prover.end(), 0);
  assert.equal(first.id, 1);
  assert.equal(second.id, "two");
  const { ctc, cta } = verifiers;
  assert.ok(await devnet.verify(ctc, first.proof, first.publicInputs));
  assert.ok(await devnet.verify(cta, second.proof, second.publicInputs));
  assert.equal(prover.stderr, "");

  // Each public input, changed by one, and taken above the modulus by the same residue.
  for (const [i, input] of first.publicInputs.entries()) {
    for (const other of [(BigInt(input) + 1n) % MODULUS, BigInt(input) + MODULUS]) {
      const changed = first.publicInputs.with(i, `0x${other.toString(16).padStart(64, "0")}`);
      assert.equal(await devnet.verify(ctc, first.proof, changed), false, `public input ${i}`);
    }
  }
  // A byte of the proof in each of its words, in turn the first, the second … of the word.
  const bytes = Buffer.from(first.proof.slice(2), "hex");
  for (let at = 0; at < bytes.length; at += 33) {
    const changed = Buffer.from(bytes);
    changed[at] ^= 1;
    assert.equal(await devnet.verify(ctc, `0x${changed.toString("hex")}`, first.publicInputs), false, `byte ${at}`);
  }
  for (const cut of [bytes.subarray(0, -32), Buffer.concat([bytes, Buffer.alloc(32)]), Buffer.alloc(0)]) {
    assert.equal(await devnet.verify(ctc, `0x${cut.toString("hex")}`, first.publicInputs), false, `${cut.length} bytes`);
  }
  assert.equal(await devnet.verify(cta, first.proof, first.publicInputs), false, "the other circuit's verifier");
  assert.equal(await devnet.verify(ctc, first.proof, first.publicInputs.slice(1)), false, "an input too few");
});

it("gives two proofs of one move that differ", async () => {
  const prover = new ProverProcess();
  await prover.next();
  const inputs = moves.cta["two notes of a custody"];
  const proofs = [
    await prover.ask({ id: 1, circuit: "cta", inputs }),
    await prover.ask({ id: 2, circuit: "cta", inputs }),
  ];
  await prover.end();
  assert.deepEqual(proofs[0].publicInputs, proofs[1].publicInputs);
  assert.notEqual(proofs[0].proof, proofs[1].proof);
});

it("says which rule a move breaks, shows no value, and goes on", async () => {
  const prover = new ProverProcess();
  await prover.next();
  const sound = moves.ctc["two notes of a custody"];
  const secret = sound.in_blinding[0];
  const without = ({ salt, ...rest }) => (void salt, rest);
  const refusals = [
    [{ circuit: "ctc", inputs: moves.ctc["a unit lost"] }, "unsatisfied", /^sum$/],
    [{ circuit: "ctc", inputs: moves.ctc["one note twice"] }, "unsatisfied", /^one note twice$/],
    [{ circuit: "cta", inputs: moves.cta["the solver's signature with high s"] }, "unsatisfied", /solver's signature/],
    [{ circuit: "cta", inputs: moves.cta["an amount of 2^128"] }, "unsatisfied", /128 bits/],
    [{ circuit: "ctc", inputs: moves.ctc["a digest's low limb of more than 128 bits"] }, "unsatisfied", /128 bits/],
    [{ circuit: "cts", inputs: sound }, "bad-input", /circuit: one of ctc, cta/],
    [{ circuit: "toString", inputs: sound }, "bad-input", /circuit/],
    [{ circuit: "ctc" }, "bad-input", /inputs/],
    [{ circuit: "ctc", inputs: [sound] }, "bad-input", /inputs/],
    [{ circuit: "ctc", inputs: without(sound) }, "bad-input", /salt: missing/],
    [{ circuit: "ctc", inputs: { ...sound, extra: "0x1" } }, "bad-input", /extra/],
    [{ circuit: "ctc", inputs: { ...sound, salt: `${secret}zz` } }, "bad-input", /salt: a field element/],
    [{ circuit: "ctc", inputs: { ...sound, salt: 5 } }, "bad-input", /salt/],
    [{ circuit: "ctc", inputs: { ...sound, salt: hex(MODULUS) } }, "bad-input", /modulus/],
    [{ circuit: "ctc", inputs: { ...sound, empty1: 0 } }, "bad-input", /empty1/],
    [{ circuit: "ctc", inputs: { ...sound, path_length: [256, 0] } }, "bad-input", /path_length\[0\]/],
    [{ circuit: "ctc", inputs: { ...sound, path_index: [0, 2 ** 32] } }, "bad-input", /path_index\[1\]/],
    [{ circuit: "ctc", inputs: { ...sound, path_index: [0, -1] } }, "bad-input", /path_index\[1\]/],
    [{ circuit: "ctc", inputs: { ...sound, in_amount: ["0x1"] } }, "bad-input", /in_amount: a list of 2/],
    [{ circuit: "ctc", inputs: { ...sound, trader_x: sound.trader_x.with(3, 256) } }, "bad-input", /trader_x\[3\]/],
    [{ circuit: "ctc", inputs: { ...sound, trader_x: sound.trader_x.with(3, 1.5) } }, "bad-input", /trader_x\[3\]/],
  ];
  for (const [id, [request, code, message]] of refusals.entries()) {
    const { id: answered, error } = await prover.ask({ id, ...request });
    assert.equal(answered, id);
    assert.equal(error?.code, code, JSON.stringify(request).slice(0, 80));
    assert.match(error.message, message);
    assert.ok(!error.message.includes(secret.slice(2)));
  }
  for (const line of ["{oops", "null", "[]", "7", '{"id":{},"circuit":"ctc"}']) {
    assert.equal((await prover.ask(line)).error.code, "bad-input", line);
  }
  assert.ok((await prover.ask({ id: 99, circuit: "ctc", inputs: sound })).proof);
  assert.equal(await prover.end(), 0);
  assert.equal(prover.stderr, "");
});

it("starts another bb when one dies, and tells whose proof was lost", async () => {
  const prover = new ProverProcess();
  await prover.next();
  const inputs = moves.cta["two notes of a custody"];
  prover.send({ id: 1, circuit: "cta", inputs });
  // bb is the prover's only child.
  const [victim] = readFileSync(`/proc/${prover.child.pid}/task/${prover.child.pid}/children`, "utf8").trim().split(" ");
  process.kill(Number(victim), "SIGKILL");
  assert.equal((await prover.next()).error.code, "tool-failed");
  assert.ok((await prover.ask({ id: 2, circuit: "cta", inputs })).proof);
  await prover.end();
});

it("keeps what it is told out of arguments, environment and the temporary directory", async () => {
  const scratch = mkdtempSync(join(tmpdir(), "psymm-prover-"));
  try {
    const prover = new ProverProcess({ env: { TMPDIR: scratch } });
    await prover.next();
    await prover.ask({ id: 1, circuit: "cta", inputs: moves.cta["two notes of a custody"] });
    const [child] = readFileSync(`/proc/${prover.child.pid}/task/${prover.child.pid}/children`, "utf8").trim().split(" ");
    assert.match(readFileSync(`/proc/${child}/cmdline`, "utf8"), /\/bb\0msgpack\0run\0$/);
    assert.deepEqual(readdirSync(scratch), []);
    await prover.end();
  } finally {
    rmSync(scratch, { recursive: true });
  }
});

it("runs from any directory that holds what the wheel carries and the runtime packages", async () => {
  const home = mkdtempSync(join(tmpdir(), "psymm-prover-"));
  try {
    for (const file of RUNTIME) copyFileSync(join(REPO, "node", file), join(home, file));
    symlinkSync(join(REPO, "node", "node_modules"), join(home, "node_modules"));
    const { dependencies } = JSON.parse(readFileSync(join(REPO, "node", "package.json"), "utf8"));
    for (const file of RUNTIME.filter((one) => one.endsWith(".mjs"))) {
      for (const [, name] of readFileSync(join(home, file), "utf8").matchAll(/(?: from |import\()"([^"]+)"/g)) {
        const known = name.startsWith("node:") || RUNTIME.includes(name.replace("./", ""));
        const packageName = name.split("/").slice(0, 2).join("/");
        assert.ok(known || packageName in dependencies, `${file} imports ${name}`);
      }
    }
    for (const how of [{ args: ["--circuits", ARTIFACTS] }, { env: { PSYMM_CIRCUITS: ARTIFACTS } }]) {
      const prover = new ProverProcess({ path: join(home, "prover.mjs"), ...how });
      assert.equal((await prover.next()).ready, true);
      assert.equal(await prover.end(), 0);
    }
  } finally {
    rmSync(home, { recursive: true });
  }
});

it("refuses to start without its packages, without circuits, or without the reference string of its keys", async () => {
  const home = mkdtempSync(join(tmpdir(), "psymm-prover-"));
  const refusal = async (options) => {
    const prover = new ProverProcess(options);
    const { ready, error } = await prover.next();
    assert.equal(ready, false);
    assert.equal(await prover.exit, 3);
    return error;
  };
  try {
    for (const file of RUNTIME) copyFileSync(join(REPO, "node", file), join(home, file));
    const bare = await refusal({ path: join(home, "prover.mjs") });
    assert.equal(bare.code, "tool-missing");
    assert.match(bare.message, /psymm tools install/);
    const nowhere = await refusal({ env: { PSYMM_CIRCUITS: home } });
    assert.equal(nowhere.code, "tool-missing");
    const missing = await refusal({ env: { CRS_PATH: home } });
    assert.equal(missing.code, "no-crs");
    assert.match(missing.message, /bn254_g1\.dat is missing; set CRS_PATH/);

    copyFileSync(join(DEV_CRS, "bn254_g1.dat"), join(home, "bn254_g1.dat"));
    copyFileSync(join(DEV_CRS, "bn254_g2.dat"), join(home, "bn254_g2.dat"));
    truncateSync(join(home, "bn254_g1.dat"), 64 * 1000);
    assert.match((await refusal({ env: { CRS_PATH: home } })).message, /64000 bytes/);

    copyFileSync(join(DEV_CRS, "bn254_g1.dat"), join(home, "bn254_g1.dat"));
    writeFileSync(join(home, "bn254_g2.dat"), Buffer.alloc(128, 1));
    assert.match((await refusal({ env: { CRS_PATH: home } })).message, /not the dev one/);
  } finally {
    rmSync(home, { recursive: true });
  }
});
