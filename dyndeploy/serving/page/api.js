// The server, in the Open Inference Protocol v2: tensors travel behind the JSON as bytes (the binary tensor extension).

import { BYTES_OF, decode, encode } from "/page/dtypes.js";

/** A refusal of the server, in its own words. */
export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

let token = sessionStorage.getItem("token") ?? "";

/** Use a token from now on, in this tab. */
export function setToken(value) {
  token = value;
  sessionStorage.setItem("token", value);
}

async function send(path, options = {}) {
  const headers = { ...options.headers };
  if (token) headers.Authorization = `Bearer ${token}`;
  const response = await fetch(path, { ...options, headers });
  if (response.ok) return response;
  const text = await response.text();
  let message = text || response.statusText;
  try {
    message = JSON.parse(text).error ?? message;
  } catch {
    // Not JSON: a proxy's own page, say.
  }
  throw new Refusal(response.status, message);
}

/** GET, as JSON. */
export async function get(path) {
  return (await send(path)).json();
}

/** The models of the repository: [{name, state, reason}]. */
export async function models() {
  return (await send("/v2/repository/index", { method: "POST" })).json();
}

/**
 * One request.
 *
 * @param {string} model
 * @param {{name: string, datatype: string, shape: number[], values: ArrayLike<number>}[]} inputs
 * @returns {Promise<{name: string, datatype: string, shape: number[], values: ArrayLike<number>}[]>}
 */
export async function infer(model, inputs) {
  const blocks = inputs.map((input) => encode(input.datatype, input.values));
  const head = {
    inputs: inputs.map(({ name, datatype, shape }, index) => ({
      name,
      datatype,
      shape,
      parameters: { binary_data_size: blocks[index].byteLength },
    })),
    parameters: { binary_data_output: true },
  };
  const json = new TextEncoder().encode(JSON.stringify(head));
  const response = await send(`/v2/models/${encodeURIComponent(model)}/infer`, {
    method: "POST",
    headers: { "Content-Type": "application/octet-stream", "Inference-Header-Content-Length": String(json.length) },
    body: new Blob([json, ...blocks]),
  });
  const length = Number(response.headers.get("Inference-Header-Content-Length"));
  const body = await response.arrayBuffer();
  const answer = JSON.parse(new TextDecoder().decode(body.slice(0, length)));
  let at = length;
  return answer.outputs.map(({ name, datatype, shape, parameters }) => {
    const size = parameters.binary_data_size;
    if (!(datatype in BYTES_OF)) throw new Error(`${name} is ${datatype}, which this page cannot show.`);
    const values = decode(datatype, body.slice(at, at + size));
    at += size;
    return { name, datatype, shape, values };
  });
}
