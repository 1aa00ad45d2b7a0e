// secp256k1 in plain integers, for tests alone: it signs any digest with any nonce, makes high s,
// and knows nothing of constant time. Curve and formulas: SEC 1 and SEC 2.

import { randomBytes } from "node:crypto";

export const P = 2n ** 256n - 2n ** 32n - 977n;
export const N = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141n;
const G = {
  x: 0x79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798n,
  y: 0x483ada7726a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8n,
};

const mod = (a, m) => ((a % m) + m) % m;

export function inverse(a, m) {
  let [r, s, t, u] = [mod(a, m), m, 1n, 0n];
  while (r !== 0n) [s, r, u, t] = [r, s % r, t, u - (s / r) * t];
  return mod(u, m);
}

export function add(a, b) {
  if (!a) return b;
  if (!b) return a;
  if (a.x === b.x && mod(a.y + b.y, P) === 0n) return null;
  const slope =
    a.x === b.x
      ? mod(3n * a.x * a.x * inverse(2n * a.y, P), P)
      : mod((b.y - a.y) * inverse(b.x - a.x, P), P);
  const x = mod(slope * slope - a.x - b.x, P);
  return { x, y: mod(slope * (a.x - x) - a.y, P) };
}

export function multiply(k, point = G) {
  let sum = null;
  for (let at = point; k > 0n; k >>= 1n, at = add(at, at)) if (k & 1n) sum = add(sum, at);
  return sum;
}

export const bytes32 = (value) => [...Buffer.from(value.toString(16).padStart(64, "0"), "hex")];
const integer = (bytes) => BigInt(`0x${Buffer.from(bytes).toString("hex")}`);

/** A wallet: {secret, x, y}, coordinates as 32 bytes each. */
export function wallet(secret = (integer(randomBytes(40)) % (N - 1n)) + 1n) {
  const { x, y } = multiply(secret);
  return { secret, x: bytes32(x), y: bytes32(y) };
}

/** r ‖ s over the 32 bytes of `digest`; s low unless `high` asks for its other form. */
export function sign({ secret }, digest, { high = false } = {}) {
  const k = (integer(randomBytes(40)) % (N - 1n)) + 1n;
  const r = multiply(k).x % N;
  let s = mod(inverse(k, N) * (integer(digest) + r * secret), N);
  if (s > N / 2n !== high) s = N - s;
  return [...bytes32(r), ...bytes32(s)];
}
