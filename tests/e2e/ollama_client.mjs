// What the npm package `ollama` gets from a gateway, as one JSON object: run by test_ollama_js.py.
import { Ollama } from 'ollama'

const host = process.env.HUGIND_URL
const headers = { Authorization: `Bearer ${process.env.HUGIND_API_KEY}` }
const ollama = new Ollama({ host, headers })
const options = { num_predict: 8, temperature: 0, seed: 1, num_ctx: 99999, no_such_option: 1 }
const messages = [{ role: 'user', content: 'hello' }]
const tool = {
  type: 'function',
  function: {
    name: 'add',
    description: 'adds',
    parameters: { type: 'object', properties: { a: { type: 'integer' } }, required: ['a'] },
  },
}
const schema = { type: 'object', properties: { n: { type: 'integer' } }, required: ['n'] }

async function failure(promise) {
  try {
    await promise
  } catch (error) {
    return { name: error.name, message: error.message, status: error.status_code }
  }
}

async function parts(promise) {
  const all = []
  for await (const part of await promise) all.push(part)
  return all
}

async function aborted() {
  const stream = await ollama.chat({ model: 'chat', messages, stream: true, options: { num_predict: 2000 } })
  let count = 0
  try {
    for await (const part of stream) {
      count += part.done ? 1000 : 1
      if (count === 2) stream.abort()
    }
  } catch (error) {
    return { name: error.name, count }
  }
}

const chat = { model: 'chat', messages, options }
console.log(
  JSON.stringify({
    list: (await ollama.list()).models.map((model) => model.name),
    show: await ollama.show({ model: 'chat' }),
    whole: await ollama.chat(chat),
    streamed: await parts(ollama.chat({ ...chat, stream: true })),
    generated: await ollama.generate({ model: 'chat', prompt: 'hello', options }),
    generatedParts: await parts(ollama.generate({ model: 'chat', prompt: 'hello', options, stream: true })),
    embedded: await ollama.embed({ model: 'embed', input: ['one', 'two'] }),
    oldEmbedded: await ollama.embeddings({ model: 'embed', prompt: 'one' }),
    ps: (await ollama.ps()).models.map((model) => model.name),
    called: await ollama.chat({ model: 'calling', messages, tools: [tool], options: { num_predict: 200 } }),
    calledParts: await parts(
      ollama.chat({ model: 'calling', messages, tools: [tool], options: { num_predict: 200 }, stream: true }),
    ),
    formatted: await ollama.chat({ model: 'calling', messages, format: schema, options: { num_predict: 200 } }),
    aborted: await aborted(),
    unknown: await failure(ollama.chat({ model: 'nope', messages })),
    stranger: await failure(new Ollama({ host, headers: { Authorization: 'Bearer wrong' } }).list()),
  }),
)
