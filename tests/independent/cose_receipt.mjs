// Verifies COSE Receipts of inclusion (RFC 9942, RFC9162_SHA256) with another author's COSE and CBOR.
//
//   node cose_receipt.mjs  < [{ "receipt": hex, "entry": hex, "key": hex of an Ed25519 key }]  > ["ok" or a reason]
//
// The root is the detached payload; it comes from entry and path as RFC 9162 §2.1.3.2 walks them.
import { createHash, webcrypto } from "node:crypto";
import { readFileSync } from "node:fs";
import { Sign1 } from "@auth0/cose";
import { decode } from "cbor-x";

const VDS = 395;
const VDP = 396;
const INCLUSION = -1;
const RFC9162_SHA256 = 1;

const sha256 = (prefix, ...parts) => {
  const hash = createHash("sha256").update(Buffer.from([prefix]));
  for (const part of parts) hash.update(part);
  return hash.digest();
};

function rootOf(entry, size, index, path) {
  if (index >= size) throw new Error("the index is not in the tree");
  let fn = index;
  let sn = size - 1;
  let root = sha256(0, entry);
  for (const sibling of path) {
    if (sn === 0) throw new Error("the path is too long");
    if (fn % 2 === 1 || fn === sn) {
      root = sha256(1, sibling, root);
      while (fn % 2 === 0 && fn !== 0) {
        fn = Math.floor(fn / 2);
        sn = Math.floor(sn / 2);
      }
    } else {
      root = sha256(1, root, sibling);
    }
    fn = Math.floor(fn / 2);
    sn = Math.floor(sn / 2);
  }
  if (sn !== 0) throw new Error("the path is too short");
  return root;
}

async function verify({ receipt, entry, key }) {
  const message = Sign1.decode(Buffer.from(receipt, "hex"));
  if (message.protectedHeaders.get(VDS) !== RFC9162_SHA256) throw new Error("another data structure");
  const [proof] = message.unprotectedHeaders.get(VDP).get(INCLUSION);
  const [size, index, path] = decode(proof);
  const root = rootOf(Buffer.from(entry, "hex"), size, index, path);
  const algorithm = { name: "Ed25519" };
  const publicKey = await webcrypto.subtle.importKey("raw", Buffer.from(key, "hex"), algorithm, true, ["verify"]);
  await message.verify(publicKey, { detachedPayload: root });
}

const verdicts = [];
for (const item of JSON.parse(readFileSync(0, "utf8"))) {
  verdicts.push(await verify(item).then(() => "ok", (error) => error.message));
}
process.stdout.write(JSON.stringify(verdicts));
