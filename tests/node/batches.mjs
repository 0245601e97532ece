// Batches by the official Node client: `node batches.mjs BASE_URL TOKEN MODEL` prints one JSON object.
import OpenAI, { toFile } from "openai";

const [baseURL, apiKey, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 20_000 });
const endpoint = "/v1/chat/completions";

async function file(lines) {
  const text = lines.map((line) => JSON.stringify(line)).join("\n");
  return client.files.create({ file: await toFile(Buffer.from(text), "lines.jsonl"), purpose: "batch" });
}

const line = (name, more = {}) => ({
  custom_id: name,
  method: "POST",
  url: endpoint,
  body: { model, messages: [{ role: "user", content: name }], ...more },
});

async function ended(batch) {
  while (["validating", "in_progress", "finalizing", "cancelling"].includes(batch.status)) {
    await new Promise((resolve) => setTimeout(resolve, 100));
    batch = await client.batches.retrieve(batch.id);
  }
  return batch;
}

const lines = async (id) => (await (await client.files.content(id)).text()).trim().split("\n").map((one) => JSON.parse(one));

const input = await file([line("a"), line("b"), line("wrong", { temperature: 9 })]);
const options = { input_file_id: input.id, endpoint, completion_window: "24h" };
const created = await client.batches.create({ ...options, metadata: { night: "1" } });
const done = await ended(created);
const output = await lines(done.output_file_id);
const errors = await lines(done.error_file_id);
const faulty = await file([line("twice"), line("twice")]);
const failed = await ended(await client.batches.create({ ...options, input_file_id: faulty.id }));
const cancelled = await ended(await client.batches.cancel((await client.batches.create(options)).id));
const listed = [];
for await (const batch of client.batches.list({ limit: 1 })) listed.push(batch.id);
const made = [created.id, failed.id, cancelled.id];
const gone = await client.batches.retrieve("batch_nothing").catch((error) => [error.status, error.code]);
const window = await client.batches.create({ ...options, completion_window: "1y" }).catch((error) => [error.status, error.param]);
console.log(JSON.stringify({ created, done, output, errors, failed, cancelled, listed, made, gone, window }));
