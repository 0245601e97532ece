// The playground: sends what the form says, shows the answer while it comes, and the same request as code.
// What a model says is text: it is only ever put into text nodes.

const form = document.getElementById("ask");
const part = (id) => document.getElementById(id);
let stopper = null;

function requestOf() {
  const given = (name) => form.elements[name].value.trim();
  const messages = [];
  if (given("system")) messages.push({ role: "system", content: given("system") });
  messages.push({ role: "user", content: given("user") });
  const body = { model: form.elements.model.value, messages };
  if (given("temperature")) body.temperature = Number(given("temperature"));
  if (given("max_tokens")) body.max_tokens = Number(given("max_tokens"));
  if (form.elements.stream.checked) Object.assign(body, { stream: true, stream_options: { include_usage: true } });
  return body;
}

function showCode() {
  const code = codeOf(requestOf(), `${location.origin}/v1`);
  for (const [id, text] of Object.entries(code)) part(id).textContent = text;
}

function say(text, kind = "quiet") {
  part("state").textContent = text;
  part("state").className = kind;
}

function seconds(ms) {
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

// --- the same as code ----------------------------------------------------------------------------------------------

function python(value, indent) {
  const inner = `${indent}    `;
  if (value === true) return "True";
  if (value === false) return "False";
  if (value === null) return "None";
  if (Array.isArray(value)) return `[\n${value.map((one) => `${inner}${python(one, inner)},\n`).join("")}${indent}]`;
  if (typeof value !== "object") return JSON.stringify(value);
  return `{${Object.entries(value).map(([name, one]) => `${JSON.stringify(name)}: ${python(one, inner)}`).join(", ")}}`;
}

function codeOf(body, baseUrl) {
  const json = JSON.stringify(body, null, 2);
  const named = Object.entries(body).map(([name, value]) => `    ${name}=${python(value, "    ")},\n`).join("");
  return {
    curl: `curl ${body.stream ? "-N " : ""}${baseUrl}/chat/completions \\
  -H "Authorization: Bearer $AQUEDUCT_TOKEN" \\
  -H "Content-Type: application/json" \\
  -d '${json.replaceAll("'", "'\\''")}'`,
    python: `import os
from openai import OpenAI

client = OpenAI(base_url="${baseUrl}", api_key=os.environ["AQUEDUCT_TOKEN"])
${body.stream ? "stream" : "answer"} = client.chat.completions.create(
${named})
${
  body.stream
    ? `for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)`
    : "print(answer.choices[0].message.content)"
}`,
    node: `import OpenAI from "openai";

const client = new OpenAI({ baseURL: "${baseUrl}", apiKey: process.env.AQUEDUCT_TOKEN });
const ${body.stream ? "stream" : "answer"} = await client.chat.completions.create(${json});
${
  body.stream
    ? `for await (const chunk of stream) process.stdout.write(chunk.choices[0]?.delta?.content ?? "");`
    : "console.log(answer.choices[0].message.content);"
}`,
  };
}

// --- one request ----------------------------------------------------------------------------------------------------

class Run {
  constructor() {
    this.began = performance.now();
    this.first = null;
    this.facts = new Map();
    this.failed = false;
    part("answer").replaceChildren(document.createTextNode(""));
    part("reasoning-text").replaceChildren(document.createTextNode(""));
    part("reasoning").hidden = true;
    part("facts").replaceChildren();
    part("request").hidden = true;
    say("Sent. Waiting for the first word …");
  }

  fact(name, value) {
    this.facts.set(name, value);
    part("facts").replaceChildren(
      ...[...this.facts].map(([key, text]) => {
        const pair = document.createElement("div");
        for (const [tag, content] of [["dt", key], ["dd", text]]) {
          const one = document.createElement(tag);
          one.textContent = content;
          pair.append(one);
        }
        return pair;
      }),
    );
  }

  headers(response) {
    const queued = response.headers.get("x-aqueduct-queue-position");
    if (queued !== null) this.fact("Position at first", queued);
  }

  comment(line) {
    const found = /^: queued, position (\d+)(?:, wait (\d+) ms)?(?:, held: (\S+))?/.exec(line);
    if (!found || this.first !== null) return;
    const [, before, wait, held] = found;
    say(
      `Waiting: ${before === "0" ? "next in line" : `${before} before it`}` +
        (held ? `, the model is held (${held})` : wait ? `, about ${seconds(Number(wait))} more` : ""),
      "notice",
    );
    this.fact("Position", before);
  }

  text(id, piece) {
    if (!piece) return;
    if (this.first === null) {
      this.first = performance.now() - this.began;
      this.fact("First token", seconds(this.first));
      say("Answering …");
    }
    part(id).firstChild.appendData(piece);
    if (id === "reasoning-text") part("reasoning").hidden = false;
  }

  said(message) {
    this.text("reasoning-text", message.reasoning_content ?? message.reasoning);
    this.text("answer", message.content ?? message.refusal);
    for (const call of message.tool_calls ?? []) this.text("answer", JSON.stringify(call));
  }

  usage(usage) {
    if (usage) this.fact("Tokens", `${usage.prompt_tokens} in, ${usage.completion_tokens} out`);
  }

  fail(message) {
    this.failed = true;
    say(message, "notice bad");
  }

  event(text) {
    for (const line of text.split("\n")) {
      if (line.startsWith(":")) this.comment(line);
      if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
      const event = JSON.parse(line.slice(6));
      if (event.error) this.fail(event.error.message);
      if (event.choices?.[0]) this.said(event.choices[0].delta ?? {});
      this.usage(event.usage);
    }
  }

  async stream(response) {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      events.forEach((event) => this.event(event));
    }
  }

  async take(response) {
    this.headers(response);
    const id = response.headers.get("x-request-id");
    if (!response.ok) {
      const told = await response.text();
      let message = told;
      try {
        message = JSON.parse(told).error.message;
      } catch {
        // plain text, as of a session that has ended
      }
      this.fail(`${response.status}: ${message}`);
    } else if ((response.headers.get("content-type") ?? "").startsWith("text/event-stream")) {
      await this.stream(response);
    } else {
      const answer = await response.json();
      this.said(answer.choices[0].message);
      this.usage(answer.usage);
    }
    part("request").hidden = !id;
    part("request-id").textContent = id ?? "";
    part("request-link").href = `/ui/jobs?id=${encodeURIComponent(id ?? "")}`;
  }

  end() {
    this.fact("Together", seconds(performance.now() - this.began));
    if (!this.failed) say("Done.");
  }
}

async function send() {
  const body = JSON.stringify(requestOf());
  const run = new Run();
  stopper = new AbortController();
  part("send").disabled = true;
  part("stop").disabled = false;
  try {
    const response = await fetch(form.dataset.send, {
      method: "POST",
      body,
      headers: {
        "content-type": "application/json",
        accept: "text/event-stream, application/json",
        "x-csrf-token": document.body.dataset.csrf,
      },
      signal: stopper.signal,
    });
    await run.take(response);
    run.end();
  } catch (error) {
    if (error.name === "AbortError") say("Stopped: the request was cancelled.", "notice warn");
    else run.fail(`The gateway cannot be reached, or the connection was cut: ${error.message}`);
  } finally {
    part("send").disabled = false;
    part("stop").disabled = true;
    stopper = null;
  }
}

async function copy(button) {
  const source = part(button.dataset.copy);
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(source.textContent);
    button.textContent = "Copied";
  } else {
    getSelection().selectAllChildren(source); // over http from another machine there is no clipboard
  }
}

if (form) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (stopper === null) send();
  });
  form.addEventListener("input", showCode);
  part("stop").addEventListener("click", () => stopper?.abort());
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.addEventListener("click", () => copy(button));
  }
  showCode();
}
