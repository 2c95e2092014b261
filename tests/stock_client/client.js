// A gRPC client from npm that learns from the server itself what can be called.
//
//   node client.js HOST:PORT CA_FILE  < request.json  > answer.json
//
// request.json: { "statement": hex of a statement to hand in, "proof_of": hex of an entry in the log }
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const OPTIONS = { longs: String, enums: String, defaults: true, oneofs: true, keepCase: true };
const standard = grpc.loadPackageDefinition(
  loader.loadSync(["health.proto", "reflection.proto"], { ...OPTIONS, includeDirs: [__dirname] }),
).grpc;

const [address, caFile] = process.argv.slice(2);
const credentials = grpc.credentials.createSsl(fs.readFileSync(path.resolve(caFile)));

/** Ask the server's reflection; resolve with the part of the answer that is named. */
function reflect(client, request, part) {
  return new Promise((resolve, reject) => {
    const call = client.ServerReflectionInfo({ deadline: Date.now() + 20000 });
    call.on("error", reject);
    call.on("data", (answer) => {
      call.end();
      if (answer.message_response === part) resolve(answer[part]);
      else reject(new Error(JSON.stringify(answer)));
    });
    call.write(request);
  });
}

/** Return a FileDescriptorSet: field 1, length-delimited, for each file. */
function descriptorSet(files) {
  const parts = [];
  for (const file of files) {
    const length = [];
    for (let rest = file.length; ; rest = Math.floor(rest / 128)) {
      length.push(rest >= 128 ? (rest % 128) | 128 : rest);
      if (rest < 128) break;
    }
    parts.push(Buffer.from([10, ...length]), file);
  }
  return Buffer.concat(parts);
}

/** Make a unary call; resolve with the answer, or with what the error says. */
function call(client, method, request, options = { deadline: Date.now() + 20000 }) {
  return new Promise((resolve) => {
    client[method](request, new grpc.Metadata(), options, (error, answer) => {
      resolve(error ? { error: { status: grpc.status[error.code], details: error.details } } : answer);
    });
  });
}

async function main() {
  const request = JSON.parse(fs.readFileSync(0, "utf8"));
  const reflection = new standard.reflection.v1alpha.ServerReflection(address, credentials);
  const listed = await reflect(reflection, { list_services: "" }, "list_services_response");
  const services = listed.service.map((service) => service.name).sort();
  const ours = services.filter((name) => name.startsWith("counterfoil."));
  const described = await reflect(
    reflection, { file_containing_symbol: ours[0] }, "file_descriptor_response",
  );
  const definition = loader.loadFileDescriptorSetFromBuffer(
    descriptorSet(described.file_descriptor_proto), OPTIONS,
  );
  const { audit: { v1: api } } = grpc.loadPackageDefinition(definition).counterfoil;
  const methods = Object.fromEntries(
    ours.map((name) => [name, Object.keys(api[name.split(".").pop()].service).sort()]),
  );

  const health = new standard.health.v1.Health(address, credentials);
  const log = new api.Log(address, credentials);
  const directory = new api.Directory(address, credentials);
  const intake = new api.Intake(address, credentials);
  const entry = Buffer.from(request.proof_of, "hex");
  const answer = {
    services,
    methods,
    health: await call(health, "Check", { service: ours[0] }),
    health_of_nothing: await call(health, "Check", { service: "nothing.v1.Nothing" }),
    submitted: await call(intake, "Submit", {
      submissions: [{ statement: Buffer.from(request.statement, "hex") }, { statement: Buffer.from("junk") }],
    }),
    bundles: (await call(directory, "ListKeyBundles", {})).bundles.map((bundle) => ({
      statement: bundle.statement.toString("hex"), tlog_proof: bundle.tlog_proof, revoked: bundle.revoked,
    })),
    proof: await call(log, "GetProof", { entry }),
    checkpoint: await call(log, "GetCheckpoint", {}),
    unknown: await call(log, "GetProof", { entry: Buffer.alloc(32) }),
    without_deadline: await call(log, "GetCheckpoint", {}, {}),
  };
  for (const client of [reflection, health, log, directory, intake]) client.close();
  process.stdout.write(JSON.stringify(answer, (_, value) =>
    value && value.type === "Buffer" ? Buffer.from(value.data).toString("hex") : value));
}

main().catch((error) => {
  process.stderr.write(`${error.stack || error}\n`);
  process.exit(1);
});
