// The call of this page as code that does the same. The key is never part of it.

const ENVIRONMENT = "EMBEDFLEET_API_KEY";

/** The languages, by the name that people know them by. Each takes the call and returns code. */
export const LANGUAGES = {
  curl,
  "Python, openai": openai,
  "Python, embedfleet": embedfleet,
  "Python, LangChain": langchain,
};

// `url` is the service's, `hasKey` whether it wants one, and `body` that of /v1/embeddings

function curl({ url, hasKey, body }) {
  const lines = [
    `curl -s ${quoted(`${url}/v1/embeddings`)}`,
    ...(hasKey ? [`-H "authorization: Bearer $${ENVIRONMENT}"`] : []),
    "-H 'content-type: application/json'",
    `-d ${quoted(JSON.stringify(body, null, 2))}`,
  ];
  return lines.join(" \\\n  ");
}

function openai({ url, hasKey, body: { model, input, ...more } }) {
  const fields = [["model", model], ["input", input]];
  if (Object.keys(more).length) fields.push(["extra_body", more]);
  return `${hasKey ? "import os\n\n" : ""}from openai import OpenAI

client = OpenAI(base_url=${python(`${url}/v1`)}, api_key=${keyOf(hasKey)})
answer = client.embeddings.create(
${argumentsOf(fields)}
)
vectors = [item.embedding for item in answer.data]
print(answer.model, answer.usage.total_tokens)
`;
}

function embedfleet({ url, hasKey, body: { model, input, input_type: role, truncate } }) {
  const fields = [["model", model], ["role", role], ["truncate", truncate]];
  const key = hasKey ? `, api_key=${keyOf(hasKey)}` : "";
  return `${hasKey ? "import os\n\n" : ""}from embedfleet import Client

with Client(${python(url)}${key}) as client:
    answer = client.embed(
        ${python(input, 8)},
${argumentsOf(fields.filter(([, value]) => value !== undefined), 8)}
    )
print(answer.model, answer.space, answer.tokens)
print(answer.vectors @ answer.vectors.T)
`;
}

function langchain({ url, hasKey, body: { model, input, ...more } }) {
  const fields = [["model", model], ["check_embedding_ctx_length", false]];
  if (Object.keys(more).length) fields.push(["model_kwargs", { extra_body: more }]);
  return `${hasKey ? "import os\n\n" : ""}from langchain_openai import OpenAIEmbeddings

embeddings = OpenAIEmbeddings(
    base_url=${python(`${url}/v1`)},
    api_key=${keyOf(hasKey)},
${argumentsOf(fields)}
)
vectors = embeddings.embed_documents(${python(input)})
`;
}

function keyOf(hasKey) {
  return hasKey ? `os.environ[${python(ENVIRONMENT)}]` : python("none");
}

function argumentsOf(fields, indent = 4) {
  const margin = " ".repeat(indent);
  return fields.map(([name, value]) => `${margin}${name}=${python(value, indent)},`).join("\n");
}

/** Returns a value as Python writes it; strings of JSON are strings of Python too. */
function python(value, indent = 0) {
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value === "string") return JSON.stringify(value);
  if (!Array.isArray(value)) {
    return `{${Object.entries(value).map(([name, v]) => `${python(name)}: ${python(v)}`).join(", ")}}`;
  }
  const margin = " ".repeat(indent);
  return `[\n${value.map((item) => `${margin}    ${python(item)},\n`).join("")}${margin}]`;
}

function quoted(text) {
  return `'${text.replaceAll("'", String.raw`'\''`)}'`;
}
