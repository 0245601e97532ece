// Stored completions by the official Node client: `node stored.mjs BASE_URL TOKEN MODEL` prints one JSON object.
import OpenAI from "openai";

const [baseURL, apiKey, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 20_000 });
const ask = (text, more) =>
  client.chat.completions.create({ model, messages: [{ role: "user", content: text }], store: true, ...more });
const made = [];
for (const text of ["a", "b", "c"]) made.push(await ask(text, { metadata: { from: "node", text } }));
const listed = [];
for await (const one of client.chat.completions.list({ limit: 2, metadata: { from: "node" } })) listed.push(one.id);
const filtered = [];
for await (const one of client.chat.completions.list({ metadata: { from: "node", text: "b" } })) filtered.push(one.id);
const found = await client.chat.completions.retrieve(made[0].id);
const updated = await client.chat.completions.update(made[0].id, { metadata: { changed: "yes" } });
const messages = [];
for await (const one of client.chat.completions.messages.list(made[1].id, { limit: 1 })) messages.push(one);
const deleted = await client.chat.completions.delete(made[2].id);
const gone = await client.chat.completions.retrieve(made[2].id).catch((error) => error.status);
const chunks = [];
for await (const chunk of await ask("s", { stream: true })) chunks.push(chunk);
const streamed = await client.chat.completions.retrieve(chunks[0].id);
console.log(JSON.stringify({ made, listed, filtered, found, updated, messages, deleted, gone, chunks, streamed }));
