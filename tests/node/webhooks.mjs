// A webhook read by the official Node client: `node webhooks.mjs` takes JSON with body, headers and two secrets.
import OpenAI from "openai";

const chunks = [];
for await (const chunk of process.stdin) chunks.push(chunk);
const { body, headers, secret, wrong } = JSON.parse(Buffer.concat(chunks).toString());
const client = new OpenAI({ apiKey: "none" });
const event = await client.webhooks.unwrap(body, headers, secret);
const refused = await client.webhooks.unwrap(body, headers, wrong).catch((error) => error.constructor.name);
console.log(JSON.stringify({ event, refused }));
