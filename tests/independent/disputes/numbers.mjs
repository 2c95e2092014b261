// Single operations of protocol §7.2.2, 7.2.3 and 7.2.6, from its text. A binary32 number is the JavaScript number of its value.
import { createCipheriv, createHash } from "node:crypto";

const LEAST = 2 ** -126;
const TINY = LEAST * (1 - 2 ** -25);
const double = new Float64Array(1);
const bits64 = new BigInt64Array(double.buffer);
const float = new Float32Array(1);
const bits32 = new Uint32Array(float.buffer);

const zeroOf = (x) => (x < 0 || Object.is(x, -0) ? -0 : 0);
const read = (x) => (Math.abs(x) < LEAST ? zeroOf(x) : x);
const single = (x) => (Math.abs(x) < TINY ? zeroOf(x) : Math.fround(x));
export const add = (a, b) => single(read(a) + read(b));
export const multiply = (a, b) => single(read(a) * read(b));
export const divide = (a, b) => single(read(a) / read(b));
export const root = (a) => single(Math.sqrt(read(a)));

export function fma(a, b, c) {
  const product = read(a) * read(b); // exact: 48 bits
  const addend = read(c);
  const total = product + addend;
  const part = total - product;
  const rest = product - (total - part) + (addend - part);
  if (rest === 0 || !Number.isFinite(rest)) return single(total);
  double[0] = total;
  if ((bits64[0] & 1n) === 0n) bits64[0] += rest > 0 === total > 0 ? 1n : -1n; // round to odd
  return single(double[0]);
}

// A number's text as C writes it in hexadecimal.
function hex(text) {
  const [, sign, digits, exponent] = /^(-?)0x1\.?([0-9a-f]*)p([+-]\d+)$/.exec(text);
  const value = Number(BigInt(`0x1${digits}`)) * 2 ** (Number(exponent) - 4 * digits.length);
  return sign ? -value : value;
}

export function bfloat16(x) {
  if (Math.abs(x) < LEAST) return zeroOf(x);
  if (!Number.isFinite(x)) return x;
  float[0] = x;
  const bits = bits32[0];
  bits32[0] = ((bits + 0x7fff + ((bits >>> 16) & 1)) & 0xffff0000) >>> 0;
  return float[0];
}

const EXP = ["0x1.111112p-7", "0x1.555556p-5", "0x1.555556p-3", "0x1p-1", "0x1p+0", "0x1p+0"].map(hex);
export function exp(x) {
  if (Number.isNaN(x) || x > 0) return NaN;
  if (x < -86) return 0;
  const n = add(fma(x, hex("0x1.715476p+0"), hex("0x1.8p+23")), -hex("0x1.8p+23"));
  let r = fma(n, -hex("0x1.62e4p-1"), x);
  r = fma(n, -hex("0x1.7f7d1cp-20"), r);
  let p = hex("0x1.6c16c2p-10");
  for (const c of EXP) p = fma(p, r, c);
  return p * 2 ** n;
}

// m · 2^e for a finite number, with a whole m.
function whole(x) {
  double[0] = x;
  const bits = BigInt.asUintN(64, bits64[0]);
  const field = Number((bits >> 52n) & 0x7ffn);
  const fraction = bits & ((1n << 52n) - 1n);
  const m = field ? fraction | (1n << 52n) : fraction;
  return [bits >> 63n ? -m : m, (field || 1) - 1075];
}

// The number nearest to m · 2^e, ties to even, where that is normal.
function nearest(m, e) {
  const sign = m < 0n;
  let value = sign ? -m : m;
  const extra = value.toString(2).length - 53;
  if (extra > 0) {
    const shift = BigInt(extra);
    const cut = value & ((1n << shift) - 1n);
    const half = 1n << (shift - 1n);
    value >>= shift;
    if (cut > half || (cut === half && value & 1n)) value += 1n;
    e += extra;
  }
  const found = Number(value) * 2 ** e;
  return sign ? -found : found;
}

function fma64(a, b, c) {
  const [[ma, ea], [mb, eb], [mc, ec]] = [whole(a), whole(b), whole(c)];
  const e = Math.min(ea + eb, ec);
  return nearest(((ma * mb) << BigInt(ea + eb - e)) + (mc << BigInt(ec - e)), e);
}

export function ln64(x) {
  double[0] = x;
  let k = Number((bits64[0] >> 52n) & 0x7ffn) - 1023;
  let m = x / 2 ** k;
  if (m >= hex("0x1.6a09e667f3bcdp+0")) [m, k] = [m / 2, k + 1];
  const f = m - 1;
  const s = f / (2 + f);
  const z = s * s;
  const w = z * z;
  const e = w * (hex("0x1.999999997fa04p-2") + w * (hex("0x1.c71c51d8e78afp-3") + w * hex("0x1.39a09d078c69fp-3")));
  const inner = hex("0x1.7466496cb03dep-3") + w * hex("0x1.2f112df3e5244p-3");
  const o = z * (hex("0x1.5555555555593p-1") + w * (hex("0x1.2492494229359p-2") + w * inner));
  const h = 0.5 * f * f;
  return k * hex("0x1.62e42feep-1") - (h - (s * (h + (e + o)) + k * hex("0x1.a39ef35793c76p-33")) - f);
}

function sineCosine(x) {
  const q = Math.floor(x * hex("0x1.45f306dc9c883p-1") + 0.5);
  let r = fma64(-q, hex("0x1.921fb54442d18p+0"), x);
  r = fma64(-q, hex("0x1.1a62633145c07p-54"), r);
  const z = r * r;
  let s = 0;
  let c = 0;
  for (let k = 10; k > 0; k--) {
    s = ((1 + s) * -z) / (2 * k * (2 * k + 1));
    c = ((1 + c) * -z) / ((2 * k - 1) * (2 * k));
  }
  s = r + r * s;
  c = 1 + c;
  return [[s, c], [c, -s], [-s, -c], [-c, s]][q % 4];
}

// base^−exponent, rounded to binary64, by fixed-point numbers of 256 binary places.
const PLACES = 256n;
const ONE = 1n << PLACES;
function lnFixed(m, n) {
  const z = ((m - n) * ONE) / (m + n); // of m / n in [1, 2]: 2 artanh z
  const square = (z * z) >> PLACES;
  let [term, sum] = [z, 0n];
  for (let k = 1n; term; k += 2n) {
    sum += term / k;
    term = (term * square) >> PLACES;
  }
  return 2n * sum;
}
function power(base, exponent) {
  const ln2 = lnFixed(2n, 1n);
  let [m, e] = whole(base);
  const ln = lnFixed(m, 1n << 52n) + BigInt(e + 52) * ln2;
  const [me, ee] = whole(exponent);
  const y = -((ln * me) >> BigInt(-ee));
  const n = (2n * y - ln2) / (2n * ln2); // next to y / ln 2, for y ≤ 0
  const r = y - n * ln2;
  let [term, sum] = [ONE, 0n];
  for (let k = 1n; term; k += 1n) {
    sum += term;
    term = (term * r) / (k * ONE);
  }
  return nearest(sum, Number(n - PLACES));
}

function frequency(d, pair) {
  const exponent = (2 * pair) / d.head_dim;
  const b = exponent === 0 ? 1 : power(d.theta, exponent);
  if (d.rope === "default") return b;
  if (d.rope === "linear") return b / d.factor;
  const turns = b * (d.original / hex("0x1.921fb54442d18p+2"));
  const g = Math.min(Math.max((turns - d.low) / (d.high - d.low), 0), 1);
  return (1 - g) * (b / d.factor) + g * b;
}

export function angle(d, position, pair) {
  const [sine, cosine] = sineCosine(position * Math.fround(frequency(d, pair)));
  return [Math.fround(cosine), Math.fround(sine)];
}

export function noise(seed, choice, position, index) {
  const key = createHash("sha256").update("counterfoil/v1/sampling-noise").update(seed).digest();
  const counter = Buffer.alloc(16);
  counter.writeUInt32BE(choice, 0);
  counter.writeBigUInt64BE(BigInt(position), 4);
  counter.writeUInt32BE(Math.floor(index / 4), 12);
  const block = createCipheriv("aes-256-ctr", key, counter).update(Buffer.alloc(16));
  return -ln64((block.readUInt32BE(4 * (index % 4)) + 0.5) / 2 ** 32);
}

// ---- products and sums ----

function padded(row, width, group) {
  const found = [];
  for (let at = 0; at < row.length; at += width) {
    found.push(...row.slice(at, at + width), ...Array((group - (width % group)) % group).fill(0));
  }
  return found;
}

// Adds the products of two rows to acc, from a place on at which a pair or a group begins.
export function sum(d, acc, x, w) {
  if (d.arithmetic === "pairs-32") {
    for (let first = 0; first < x.length; first += 32) {
      const halves = [0, 0];
      for (let k = first; k < Math.min(first + 32, x.length); k++) halves[k % 2] = fma(x[k], w[k], halves[k % 2]);
      acc = add(acc, add(halves[0], halves[1]));
    }
    return acc;
  }
  for (let k = 0; k < x.length; k++) {
    const place = d.dtype === "bfloat16" && (k ^ 1) < x.length ? k ^ 1 : k;
    acc = fma(x[place], w[place], acc);
  }
  return acc;
}

export function product(d, x, w, bias, width = x.length) {
  const group = d.arithmetic === "pairs-32" ? 32 : 16;
  const found = sum(d, 0, padded(x, width, group), padded(w, width, group));
  return bias === undefined ? found : add(found, bias);
}

export function byHalves(lanes) {
  for (let half = lanes.length / 2; half >= 1; half /= 2) {
    lanes = Array.from({ length: half }, (_, i) => add(lanes[i], lanes[i + half]));
  }
  return lanes[0];
}

export function normScale(x, eps) {
  const lanes = Array(16).fill(0);
  x.forEach((value, i) => (lanes[i % 16] = fma(value, value, lanes[i % 16])));
  return divide(1, root(add(divide(byHalves(lanes), x.length), Math.fround(eps))));
}
