// Reads what tests/matrix asks for with the official Node client: a list of {way, body} on standard input, what was
// read of each on standard output; tests/matrix/test_matrix.py does the comparing.
import OpenAI from "openai";

const [baseURL, apiKey] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 20_000 });

async function read({ way, body }) {
  const chunks = [];
  try {
    if (way === "helper") {
      const stream = client.chat.completions.stream(body);
      stream.on("error", () => {}); // it is told by what awaits the end
      return { answer: await stream.finalChatCompletion() };
    }
    if (!way.startsWith("streamed")) return { answer: await client.chat.completions.create(body) };
    for await (const chunk of await client.chat.completions.create({ ...body, stream: true })) chunks.push(chunk);
    return { chunks };
  } catch (error) {
    const { status, code, message } = error;
    return { chunks, error: { status, code, message } };
  }
}

let given = "";
for await (const part of process.stdin) given += part;
const told = [];
for (const one of JSON.parse(given)) told.push(await read(one));
console.log(JSON.stringify(told));
