// Drives the official Node client against a running gateway: `node client.mjs BASE_URL TOKEN` prints one JSON object,
// a member a case; the asserting is done by tests/e2e/test_openai_node.py.
import OpenAI from "openai";

const [baseURL, apiKey] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 20_000 });
const messages = [{ role: "user", content: "Hello" }];
const create = (body, options) => client.chat.completions.create({ messages, ...body }, options);

async function collect(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

async function failure(call) {
  const seen = [];
  try {
    const answer = await call();
    if (answer[Symbol.asyncIterator]) for await (const chunk of answer) seen.push(chunk.choices[0].delta.content);
  } catch (error) {
    const { name, status, code, type, param, message, requestID } = error;
    return { class: error.constructor.name, name, status, code, type, param, message, requestID, seen };
  }
  return { class: null, seen };
}

const cases = {
  create: async () => {
    const answer = await create({ model: "echo", temperature: 0 });
    return { ...answer, request_id: answer._request_id };
  },
  stream: async () => collect(await create({ model: "short", stream: true })),
  usage: async () => collect(await create({ model: "short", stream: true, stream_options: { include_usage: true } })),
  helper: async () => {
    const stream = client.chat.completions.stream({ model: "short", messages, n: 2 });
    return await stream.finalChatCompletion();
  },
  tools: async () => await create({ model: "tools" }),
  tools_streamed: async () =>
    (await client.chat.completions.stream({ model: "tools", messages }).finalChatCompletion()).choices[0].message,
  raw: async () => {
    const { data, response, request_id } = await create({ model: "short" }).withResponse();
    return { request_id, header: response.headers.get("x-request-id"), content: data.choices[0].message.content };
  },
  completion: async () => await client.completions.create({ model: "short", prompt: ["Hello", "you"], echo: true }),
  completion_stream: async () =>
    collect(await client.completions.create({ model: "short", prompt: "x", stream: true, stream_options: { include_usage: true } })),
  embeddings: async () => await client.embeddings.create({ model: "gives-floats", input: ["a", "b", "a"] }),
  embeddings_as_floats: async () =>
    await client.embeddings.create({ model: "gives-base64", input: [[1, 2], [3]], encoding_format: "float" }),
  bad_input: () => failure(() => client.embeddings.create({ model: "demo", input: ["a", ""] })),
  models: async () => {
    const ids = [];
    for await (const model of client.models.list()) ids.push(model.id);
    return ids;
  },
  model: async () => await client.models.retrieve("vendor/family/model-7b"),
  slow_stream: async () => collect(await create({ model: "slow", stream: true })),
  bad_request: () => failure(() => create({ model: "demo", n: 129 })),
  bad_key: () => failure(() => new OpenAI({ baseURL, apiKey: "wrong" }).chat.completions.create({ model: "demo", messages })),
  unknown_model: () => failure(() => create({ model: "nonexistent" })),
  rate_limited: () => failure(() => create({ model: "status-429" })),
  backend_credentials: () => failure(() => create({ model: "status-401" })),
  no_worker: () => failure(() => create({ model: "unserved", stream: true })),
  error_mid_stream: () => failure(() => create({ model: "error-after-openai", stream: true })),
  cut_mid_stream: () => failure(() => create({ model: "cut-mid-stream", stream: true })),
  retried: async () => {
    const body = { model: "fails-once", messages, user: `node ${process.hrtime.bigint()}` };
    return await client.chat.completions.create(body, { maxRetries: 1 });
  },
};

const report = {};
for (const [name, run] of Object.entries(cases)) {
  try {
    report[name] = await run();
  } catch (error) {
    report[name] = { unexpected: String(error?.stack ?? error) };
  }
}
console.log(JSON.stringify(report));
