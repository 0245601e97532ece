// Files and uploads by the official Node client: `node files.mjs BASE_URL TOKEN` prints one JSON object.
import OpenAI, { toFile } from "openai";

const [baseURL, apiKey] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 20_000 });
const made = [];
for (const name of ["a.jsonl", "b.jsonl", "c.jsonl"])
  made.push(await client.files.create({ file: await toFile(Buffer.from(name), name), purpose: "batch" }));
const listed = [];
for await (const file of client.files.list({ limit: 2, purpose: "batch" })) listed.push(file.id);
const waited = await client.files.waitForProcessing(made[0].id);
const content = await (await client.files.content(made[1].id)).text();
const deleted = await client.files.delete(made[2].id);
const gone = await client.files.retrieve(made[2].id).catch((error) => error.status);
const upload = await client.uploads.create({ bytes: 6, filename: "u.txt", mime_type: "text/plain", purpose: "user_data" });
const ids = [];
for (const text of ["abc", "def"]) {
  const part = await client.uploads.parts.create(upload.id, { data: await toFile(Buffer.from(text), "part") });
  ids.push(part.id);
}
const done = await client.uploads.complete(upload.id, { part_ids: ids });
const joined = await (await client.files.content(done.file.id)).text();
const other = await client.uploads.create({ bytes: 6, filename: "u", mime_type: "text/plain", purpose: "user_data" });
const cancelled = (await client.uploads.cancel(other.id)).status;
const refused = await client.files
  .create({ file: await toFile(Buffer.from("x"), "x"), purpose: "vision" })
  .catch((error) => [error.status, error.param]);
console.log(JSON.stringify({ made, listed, waited, content, deleted, gone, done, joined, cancelled, refused }));
