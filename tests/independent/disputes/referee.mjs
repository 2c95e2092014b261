// The referee of protocol §10, from its text: who is right about one element of a pass.
//
//   node referee.mjs  < [{ claim, root, segment, operators, number, row, element, chunks, case }]  > [0, 1, null or a reason]
//
// Byte strings are hexadecimal.
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { Decoder } from "cbor-x";
import {
  add, angle, bfloat16, byHalves, divide, exp, fma, ln64, multiply, noise, normScale, product, sum,
} from "./numbers.mjs";

const decoder = new Decoder({ mapsAsObjects: true, useRecords: false });
const BYTES = { bfloat16: 2, float32: 4, index: 4, digest: 32 };
const LONGEST = 2 ** 20;
const need = (condition, reason) => {
  if (!condition) throw new Error(reason);
};

// ---- hashes and trees ----

const sha256 = (...parts) => parts.reduce((hash, part) => hash.update(part), createHash("sha256")).digest();
const u32 = (n) => {
  const found = Buffer.alloc(4);
  found.writeUInt32BE(n);
  return found;
};
const H = (label, ...parts) => {
  const name = Buffer.from(`counterfoil/v1/${label}`, "ascii");
  return sha256(Buffer.from([name.length]), name, ...parts.flatMap((part) => [u32(part.length), part]));
};
const leaf = (entry) => sha256(Buffer.from([0]), entry);
const node = (left, right) => sha256(Buffer.from([1]), left, right);
function treeRoot(leaves) {
  if (leaves.length === 1) return leaves[0];
  let split = 1;
  while (2 * split < leaves.length) split *= 2;
  return node(treeRoot(leaves.slice(0, split)), treeRoot(leaves.slice(split)));
}
function rootOf(hash, index, size, path) {
  need(index < size, "an index beyond the end");
  let [fn, sn] = [index, size - 1];
  for (const sibling of path) {
    need(sn > 0 && sibling.length === 32, "a path of another length");
    if (fn % 2 === 1 || fn === sn) {
      hash = node(sibling, hash);
      while (fn % 2 === 0 && fn !== 0) [fn, sn] = [Math.floor(fn / 2), Math.floor(sn / 2)];
    } else {
      hash = node(hash, sibling);
    }
    [fn, sn] = [Math.floor(fn / 2), Math.floor(sn / 2)];
  }
  need(sn === 0, "a path of another length");
  return hash;
}
const chunkLeaf = (data) => leaf(H("trace-chunk", data));
const chunkBytes = (type) => 128 * BYTES[type];
function rowLeaf(type, data) {
  const leaves = [];
  for (let at = 0; at < data.length; at += chunkBytes(type)) leaves.push(chunkLeaf(data.subarray(at, at + chunkBytes(type))));
  return leaf(treeRoot(leaves));
}

// ---- layout ----

const typeOf = (d) => (d.dtype === "bfloat16" ? "bfloat16" : "float32");

class Layout {
  constructor(claim) {
    this.claim = claim;
    this.d = claim.definition;
    this.positions = claim.prompt + claim.output - 1;
    this.blocks = Math.ceil(this.positions / 32);
    this.stages = this.d.layers + 2;
    this.segments = this.blocks * this.stages + 1;
  }

  split(segment) {
    return [Math.floor(segment / this.stages), segment % this.stages];
  }

  count(block) {
    return Math.min(32, this.positions - 32 * block);
  }

  // Where the drawn positions of a block begin, counted in the block.
  firstDrawn(block) {
    return Math.max(0, this.claim.prompt - 1 - 32 * block);
  }

  digests() {
    const found = [];
    for (const [start, stop] of [[0, this.claim.prompt - 1], [this.claim.prompt - 1, this.positions]]) {
      for (let first = start; first < stop; first += 32) found.push([first, Math.min(first + 32, stop)]);
    }
    return found;
  }

  seen(segment, row) {
    const [block, stage] = this.split(segment);
    const position = 32 * block + Math.floor(row / this.d.heads);
    const window = this.d.windows[stage - 1];
    return [window ? Math.max(0, position + 1 - window) : 0, position];
  }

  operators(segment) {
    const { d } = this;
    const T = typeOf(d);
    const list = (name, type, rows, width, committed = false) => ({
      name, type, committed, widths: Array.from({ length: rows }, (_, row) => (width instanceof Function ? width(row) : width)),
    });
    if (segment === this.segments - 1) return [list("digests", "digest", this.digests().length, 1, true)];
    const [block, stage] = this.split(segment);
    const m = this.count(block);
    if (stage === 0) return [list("states", "float32", m, d.hidden, true)];
    if (stage === this.stages - 1) {
      const found = [list("norm.scale", "float32", m, 1), list("hidden", T, m, d.hidden, true)];
      const drawn = m - this.firstDrawn(block);
      if (this.claim.sampling && drawn > 0) {
        found.push(list("logits", "float32", drawn, d.vocab), list("draws", "index", drawn, 1, true));
      }
      return found;
    }
    const [heads, kv] = [m * d.heads, m * d.kv_heads];
    const reach = (row) => 32 * block + Math.floor(row / d.heads) + 1;
    const norms = ["q", "k"].flatMap((name, i) => [
      list(`${name}_norm.scale`, "float32", [heads, kv][i], 1), list(`${name}_norm`, "float32", [heads, kv][i], d.head_dim),
    ]);
    return [
      list("norm_in.scale", "float32", m, 1), list("norm_in", T, m, d.hidden),
      list("q", "float32", m, d.heads * d.head_dim), list("k", "float32", m, d.kv_heads * d.head_dim),
      list("v", "float32", m, d.kv_heads * d.head_dim), ...(d.norms ? norms : []),
      list("queries", T, heads, d.head_dim), list("keys", T, kv, d.head_dim, true),
      list("values", T, d.kv_heads * d.head_dim, m, true), list("scores", "float32", heads, reach),
      list("largest", "index", heads, 1), list("weights", T, heads, reach),
      list("lanes", "float32", heads, 16 * (block + 1)), list("total", "float32", heads, 1),
      list("sums", "float32", heads, d.head_dim * (block + 1)), list("attended", T, m, d.heads * d.head_dim),
      list("middle", "float32", m, d.hidden), list("norm_out.scale", "float32", m, 1),
      list("norm_out", T, m, d.hidden), list("gate", "float32", m, d.inner), list("up", "float32", m, d.inner),
      list("gated", T, m, d.inner), list("states", "float32", m, d.hidden, true),
    ];
  }
}

function tensorShape(d, name) {
  const [q, kv] = [d.heads * d.head_dim, d.kv_heads * d.head_dim];
  if (name === "model.embed_tokens.weight") return [d.vocab, d.hidden];
  if (name === "lm_head.weight") return d.tied ? undefined : [d.vocab, d.hidden];
  if (name === "model.norm.weight") return [d.hidden];
  const [, layer, rest] = /^model\.layers\.(0|[1-9]\d*)\.(.*)$/.exec(name) ?? [];
  if (layer === undefined || Number(layer) >= d.layers) return undefined;
  return {
    "input_layernorm.weight": [d.hidden], "post_attention_layernorm.weight": [d.hidden],
    "self_attn.q_proj.weight": [q, d.hidden], "self_attn.k_proj.weight": [kv, d.hidden],
    "self_attn.v_proj.weight": [kv, d.hidden], "self_attn.q_proj.bias": [q], "self_attn.k_proj.bias": [kv],
    "self_attn.v_proj.bias": [kv], "self_attn.q_norm.weight": [d.head_dim], "self_attn.k_norm.weight": [d.head_dim],
    "self_attn.o_proj.weight": [d.hidden, q], "mlp.gate_proj.weight": [d.inner, d.hidden],
    "mlp.up_proj.weight": [d.inner, d.hidden], "mlp.down_proj.weight": [d.hidden, d.inner],
  }[rest];
}

// ---- numbers as bytes ----

function half(bits) {
  const [sign, exponent, fraction] = [bits >> 15 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
  return sign * (exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24);
}
const one = Buffer.alloc(4);
function numbers(type, data) {
  const size = type === "float16" ? 2 : BYTES[type];
  return Array.from({ length: data.length / size }, (_, i) => {
    if (type === "index") return data.readUInt32LE(4 * i);
    if (type === "float16") return half(data.readUInt16LE(2 * i));
    if (type === "float32") return data.readFloatLE(4 * i);
    one.writeUInt16LE(0, 0);
    one.writeUInt16LE(data.readUInt16LE(2 * i), 2);
    return one.readFloatLE(0);
  });
}
function bytes(type, value) {
  const found = Buffer.alloc(4);
  found.writeFloatLE(value);
  return type === "bfloat16" ? found.subarray(2) : found;
}

// ---- a case ----

class Shown {
  constructor(layout, asked, place, sent) {
    Object.assign(this, { layout, asked, place, data: new Map(), tokens: new Map(), weights: new Map() });
    for (const opening of sent.openings) this.open(opening);
    for (const row of sent.rows) this.weigh(row);
  }

  open(opening) {
    const { layout, place, asked } = this;
    if (opening.segment === undefined) {
      need(opening.operator === 0 && opening.chunk === undefined, "tokens that are not those of a block");
      const count = layout.claim.prompt + layout.claim.output;
      const widths = Array.from({ length: Math.ceil(count / 32) }, (_, i) => Math.min(32, count - 32 * i));
      need(this.climb(opening, { type: "index", widths }).equals(layout.claim.tokens), "other tokens");
      this.tokens.set(opening.row, numbers("index", opening.data));
      return;
    }
    need(opening.segment < layout.segments, "a segment beyond the end");
    const operators = layout.operators(opening.segment);
    const found = operators[opening.operator];
    need(found, "an operator beyond the end");
    const last = opening.chunk === undefined ? Infinity : 128 * (opening.chunk + 1) - 1;
    const where = [opening.segment, opening.operator, opening.row, last];
    const first = where.findIndex((value, i) => value !== place[i]);
    need(first >= 0 && where[first] < place[first], "something that does not come before the element");
    const root = this.climb(opening, found);
    if (opening.committed === undefined) {
      need(opening.segment === place[0] && root.equals(asked.operators[opening.operator]), "another operator");
    } else {
      const numbers = operators.flatMap((operator, i) => (operator.committed ? [i] : []));
      need(opening.committed.length === numbers.length && found.committed, "other operators");
      need(root.equals(opening.committed[numbers.indexOf(opening.operator)]), "another operator");
      const above = rootOf(leaf(H("trace-segment", ...opening.committed)), opening.segment, layout.segments, opening.path);
      need(above.equals(asked.root), "another pass");
    }
    this.data.set(`${opening.segment} ${found.name} ${opening.row} ${opening.chunk}`, [found.type, opening.data]);
  }

  climb(opening, found) {
    const { row, chunk, data } = opening;
    need(row < found.widths.length, "a row beyond the end");
    const width = found.widths[row];
    const size = BYTES[found.type];
    let hash;
    if (chunk === undefined) {
      need(data.length === width * size, "a row of another length");
      hash = rowLeaf(found.type, data);
    } else {
      need(128 * chunk < width && data.length === size * Math.min(128, width - 128 * chunk), "a chunk of another length");
      hash = leaf(rootOf(chunkLeaf(data), chunk, Math.ceil(width / 128), opening.chunk_path));
    }
    return rootOf(hash, row, found.widths.length, opening.row_path);
  }

  weigh(row) {
    const { d } = this.layout;
    const shape = tensorShape(d, row.tensor);
    const dtype = { bfloat16: "BF16", float16: "F16", float32: "F32" }[d.dtype];
    need(shape && row.dtype === dtype, "a tensor that the pass does not read");
    const width = shape[shape.length - 1];
    need(row.data.length === width * (dtype === "F32" ? 4 : 2), "a row of weights of another length");
    const rows = rootOf(leaf(H("tensor-row", row.data)), row.row, shape.length > 1 ? shape[0] : 1, row.rows_path);
    const lengths = Buffer.alloc(8 * shape.length);
    shape.forEach((length, i) => lengths.writeBigUInt64BE(BigInt(length), 8 * i));
    const entry = H("tensor-rows", Buffer.from(row.tensor), Buffer.from(row.dtype), lengths, rows);
    need(rootOf(leaf(entry), row.index, row.size, row.path).equals(this.layout.claim.weights), "other weights");
    this.weights.set(`${row.tensor} ${row.row}`, numbers(d.dtype, row.data));
  }

  row(segment, name, row) {
    const found = this.data.get(`${segment} ${name} ${row} undefined`);
    need(found, `nothing of row ${row} of ${name}`);
    return numbers(...found);
  }

  raw(segment, name, row) {
    const found = this.data.get(`${segment} ${name} ${row} undefined`);
    need(found, `nothing of row ${row} of ${name}`);
    return found[1];
  }

  item(segment, name, row, element) {
    const [own, number, ownRow, end] = this.place;
    const chunk = Math.floor(element / 128);
    const operator = this.layout.operators(own)[number];
    if (segment === own && name === operator.name && row === ownRow && chunk === Math.floor(end / 128)) {
      need(element < end, "something that does not come before the element");
      return numbers(operator.type, this.asked.chunks[0])[element % 128];
    }
    if (this.data.has(`${segment} ${name} ${row} undefined`)) return this.row(segment, name, row)[element];
    const found = this.data.get(`${segment} ${name} ${row} ${chunk}`);
    need(found, `nothing of row ${row} of ${name}`);
    return numbers(...found)[element % 128];
  }

  token(position) {
    const found = this.tokens.get(Math.floor(position / 32));
    need(found && found[position % 32] < this.layout.d.vocab, "no token");
    return found[position % 32];
  }

  weight(tensor, row) {
    const found = this.weights.get(`${tensor} ${row}`);
    need(found, `no row ${row} of ${tensor}`);
    return found;
  }
}

// ---- elements ----

class Elements {
  constructor(layout, segment, shown) {
    Object.assign(this, { layout, segment, shown, d: layout.d });
    [this.block, this.stage] = layout.split(segment);
    this.rounded = this.d.dtype === "bfloat16" ? bfloat16 : (x) => x;
  }

  item = (name, row, i) => this.shown.item(this.segment, name, row, i);
  row = (name, row) => this.shown.row(this.segment, name, row);
  before = (row, i) => this.shown.item(this.segment - 1, "states", row, i);
  layer = (name, row) => this.shown.weight(`model.layers.${this.stage - 1}.${name}`, row);
  heads = (name) => (name === "q" ? this.d.heads : this.d.kv_heads);
  position = (row) => 32 * this.block + Math.floor(row / this.d.heads);
  shared = (row) => Math.floor((row % this.d.heads) / (this.d.heads / this.d.kv_heads));

  stored(x) {
    const most = this.d.dtype === "bfloat16" ? (2 - 2 ** -7) * 2 ** 127 : (2 - 2 ** -23) * 2 ** 127;
    return this.rounded(Number.isNaN(x) ? 0 : Math.min(Math.max(x, -most), most));
  }

  hidden(row, place) {
    const [first, last] = this.layout.seen(this.segment, row);
    return place < first || place > last;
  }

  ofHead(name, row, i) {
    const heads = this.heads(name);
    return this.item(name, Math.floor(row / heads), (row % heads) * this.d.head_dim + i);
  }

  rotated(name, row, i) {
    const half = this.d.head_dim / 2;
    const pair = i % half;
    const of = (j) => (this.d.norms ? this.item(`${name}_norm`, row, j) : this.ofHead(name, row, j));
    const [cosine, sine] = angle(this.d, 32 * this.block + Math.floor(row / this.heads(name)), pair);
    const [a, b] = [of(pair), of(pair + half)];
    return i < half ? fma(-b, sine, multiply(a, cosine)) : fma(a, sine, multiply(b, cosine));
  }

  scaleOfHead(name, row) {
    return normScale(Array.from({ length: this.d.head_dim }, (_, i) => this.ofHead(name, row, i)), this.d.eps);
  }

  projected(name, row, i) {
    const bias = this.d.biases ? this.layer(`self_attn.${name}_proj.bias`, 0)[i] : undefined;
    return product(this.d, this.row("norm_in", row), this.layer(`self_attn.${name}_proj.weight`, i), bias);
  }

  matrix = (input, row, tensor, i) => product(this.d, this.row(input, row), this.layer(`${tensor}.weight`, i));

  value(name, row, i) {
    if (this.segment === this.layout.segments - 1) return this.digest(row);
    if (name === "states" && this.stage === 0) {
      return this.shown.weight("model.embed_tokens.weight", this.shown.token(32 * this.block + row))[i];
    }
    const { d } = this;
    switch (name) {
      case "norm_in.scale":
      case "norm.scale": return normScale(this.shown.row(this.segment - 1, "states", row), d.eps);
      case "norm_out.scale": return normScale(this.row("middle", row), d.eps);
      case "q_norm.scale":
      case "k_norm.scale": return this.scaleOfHead(name[0], row);
      case "norm_in": return this.normed(this.before(row, i), name, row, this.layer("input_layernorm.weight", 0)[i]);
      case "norm_out":
        return this.normed(this.item("middle", row, i), name, row, this.layer("post_attention_layernorm.weight", 0)[i]);
      case "hidden": return this.normed(this.before(row, i), "norm", row, this.shown.weight("model.norm.weight", 0)[i]);
      case "q_norm":
      case "k_norm": {
        const of = this.layer(`self_attn.${name}.weight`, 0)[i];
        return multiply(multiply(this.ofHead(name[0], row, i), this.item(`${name}.scale`, row, 0)), of);
      }
      case "q":
      case "k":
      case "v": return this.projected(name, row, i);
      case "queries": return this.rounded(this.rotated("q", row, i));
      case "keys": return this.stored(this.rotated("k", row, i));
      case "values": return this.stored(this.item("v", i, row));
      case "scores": return this.score(row, i);
      case "weights": {
        if (this.hidden(row, i)) return 0;
        const most = this.item("scores", row, this.item("largest", row, 0));
        return this.rounded(exp(add(this.item("scores", row, i), -most)));
      }
      case "lanes": return this.lane(row, i);
      case "total":
        return byHalves(Array.from({ length: 16 }, (_, lane) => this.item("lanes", row, 16 * this.block + lane)));
      case "sums": return this.sum(row, i);
      case "attended": {
        const own = row * d.heads + Math.floor(i / d.head_dim);
        const c = this.item("sums", own, d.head_dim * this.block + (i % d.head_dim));
        return this.rounded(divide(add(c, 0), this.item("total", own, 0)));
      }
      case "middle": {
        const of = this.layer("self_attn.o_proj.weight", i);
        return add(this.before(row, i), product(d, this.row("attended", row), of, undefined, d.head_dim));
      }
      case "gate": return this.matrix("norm_out", row, "mlp.gate_proj", i);
      case "up": return this.matrix("norm_out", row, "mlp.up_proj", i);
      case "gated": {
        const [g, u] = [this.item("gate", row, i), this.item("up", row, i)];
        const e = exp(-Math.abs(g));
        return this.rounded(multiply(divide(multiply(g, g >= 0 ? 1 : e), add(1, e)), u));
      }
      case "states": return add(this.item("middle", row, i), this.matrix("gated", row, "mlp.down_proj", i));
      case "logits": {
        const of = this.shown.weight(d.tied ? "model.embed_tokens.weight" : "lm_head.weight", i);
        return product(d, this.row("hidden", this.layout.firstDrawn(this.block) + row), of);
      }
      default: throw new Error(`no operator ${name}`);
    }
  }

  normed = (x, name, row, w) => this.rounded(multiply(multiply(x, this.item(`${name}.scale`, row, 0)), w));

  score(row, place) {
    if (this.hidden(row, place)) return 0;
    const segment = Math.floor(place / 32) * this.layout.stages + this.stage;
    const key = this.shown.row(segment, "keys", (place % 32) * this.d.kv_heads + this.shared(row));
    return multiply(product(this.d, this.row("queries", row), key), Math.fround(1 / Math.sqrt(this.d.head_dim)));
  }

  lane(row, i) {
    const [part, lane] = [Math.floor(i / 16), i % 16];
    let total = part ? this.item("lanes", row, i - 16) : 0;
    for (const place of [32 * part + lane, 32 * part + lane + 16]) {
      if (place <= this.position(row)) total = add(total, this.item("weights", row, place));
    }
    return total;
  }

  sum(row, i) {
    const [part, e] = [Math.floor(i / this.d.head_dim), i % this.d.head_dim];
    const count = Math.min(32, this.position(row) + 1 - 32 * part);
    const weights = Array.from({ length: count }, (_, t) => this.item("weights", row, 32 * part + t));
    const values = this.shown.row(part * this.layout.stages + this.stage, "values", this.shared(row) * this.d.head_dim + e);
    return sum(this.d, part ? this.item("sums", row, i - this.d.head_dim) : 0, weights, values);
  }

  digest(number) {
    const [first, end] = this.layout.digests()[number];
    const rows = [];
    for (let at = first; at < end; at++) {
      rows.push(this.shown.raw(Math.floor(at / 32) * this.layout.stages + this.layout.stages - 1, "hidden", at % 32));
    }
    return sha256(...rows);
  }

  // What an index is chosen by.
  merit(name, row, index) {
    if (name === "largest") return this.item("scores", row, index);
    const { sampling, prompt } = this.layout.claim;
    const z = this.item("logits", row, index);
    if (sampling.temperature_ppm === 0) return z;
    const place = 32 * this.block + this.layout.firstDrawn(this.block) + row - (prompt - 1) + sampling.delivered;
    return z * (1e6 / sampling.temperature_ppm) - ln64(noise(sampling.seed, sampling.choice, place, index));
  }
}

// ---- the decision ----

function claimOf(data) {
  const claim = decoder.decode(data);
  for (const name of ["eps", "theta", "factor", "low", "high"]) {
    if (claim.definition[name]) claim.definition[name] = claim.definition[name].readDoubleBE(0);
  }
  return claim;
}

function decide(given) {
  const sent = Buffer.from(given.case, "hex");
  need(sent.length <= LONGEST, "a case that is too long");
  const layout = new Layout(claimOf(Buffer.from(given.claim, "hex")));
  const asked = {
    root: Buffer.from(given.root, "hex"),
    operators: given.operators.map((root) => Buffer.from(root, "hex")),
    chunks: given.chunks.map((chunk) => Buffer.from(chunk, "hex")),
  };
  const place = [given.segment, given.number, given.row, given.element];
  const { name, type } = layout.operators(given.segment)[given.number];
  const elements = new Elements(layout, given.segment, new Shown(layout, asked, place, decoder.decode(sent)));
  const at = (given.element % 128) * BYTES[type];
  const [a, b] = asked.chunks.map((chunk) => chunk.subarray(at, at + BYTES[type]));
  if (type === "index") {
    const [i, j] = [a.readUInt32LE(0), b.readUInt32LE(0)];
    const [x, y] = [i, j].map((index) => elements.merit(name, given.row, index));
    return x > y || (x === y && i < j) ? 0 : 1;
  }
  const value = elements.value(name, given.row, given.element);
  const right = type === "digest" ? value : bytes(type, value);
  return right.equals(a) ? 0 : right.equals(b) ? 1 : null;
}

const verdicts = JSON.parse(readFileSync(0, "utf8")).map((given) => {
  try {
    return decide(given);
  } catch (error) {
    return error.message;
  }
});
process.stdout.write(JSON.stringify(verdicts));
