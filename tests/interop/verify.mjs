// Checks the golden bytes with js-libp2p's envelopes and a CBOR library; the rest was written from PROTOCOL.md alone.
//
//     npm install --no-package-lock && node verify.mjs ../vectors
//
// Prints one line of JSON that says what holds. Ends with 1 and a reason if anything does not.

import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { peerIdFromPublicKey } from '@libp2p/peer-id'
import { RecordEnvelope } from '@libp2p/peer-record'
import { decode } from 'cborg'

const AMOUNT_MAX = 2n ** 63n - 1n
const folder = process.argv[2]
const stored = (name) => JSON.parse(readFileSync(join(folder, name), 'utf8'))
const bytes = (hex) => Buffer.from(hex, 'hex')
const sha256 = (...parts) => createHash('sha256').update(Buffer.concat(parts.map((part) => Buffer.from(part)))).digest()
const same = (one, other) => Buffer.from(one).equals(Buffer.from(other))

function demand (holds, reason) {
  if (!holds) throw new Error(reason)
}

// What is signed.

async function open (kind, data) {
  const envelope = await RecordEnvelope.openAndCertify(data, `cxp2p/${kind}/1`)
  const type = Buffer.from(envelope.payloadType).toString()
  demand(type === `/cxp2p/${kind}/1`, `the envelope holds ${type}, expected a ${kind}`)
  demand(envelope.publicKey.type === 'Ed25519', 'not signed with Ed25519')
  const body = Buffer.from(envelope.payload.subarray())
  const record = decode(body, { allowIndefinite: false, rejectDuplicateMapKeys: true })
  return { peer: peerIdFromPublicKey(envelope.publicKey).toString(), record }
}

const SIGNER = { offer: 'peer', order: 'gateway', voucher: 'gateway', receipt: 'node', 'epoch-root': 'gateway' }

async function openOwn (kind, data) {
  const { peer, record } = await open(kind, data)
  const named = record[SIGNER[kind]]
  demand(named === undefined || named === peer, `the ${kind} is not signed by its ${SIGNER[kind]}`)
  return { peer, record }
}

const plain = (value) => {
  if (value instanceof Uint8Array) return Buffer.from(value).toString('hex')
  if (Array.isArray(value)) return value.map(plain)
  if (value !== null && typeof value === 'object') {
    return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, plain(each)]).sort())
  }
  return value
}

async function envelopes () {
  const kinds = []
  for (const vector of stored('envelopes.json')) {
    const data = bytes(vector.envelope)
    const { peer, record } = await openOwn(vector.kind, data)
    demand(peer === vector.peer, `${vector.kind}: signed by ${peer}`)
    const fields = JSON.stringify(plain(record))
    demand(fields === JSON.stringify(plain(vector.fields)), `${vector.kind}: its fields are ${fields}`)
    demand(sha256(data).toString('hex') === vector.sha256, `${vector.kind}: another SHA-256`)
    kinds.push(vector.kind)
  }
  return kinds
}

// The tree that sums.

const number = (value) => {
  const packed = Buffer.alloc(8)
  packed.writeBigUInt64BE(BigInt(value))
  return packed
}
const pack = (node) => Buffer.concat([number(node.amount), number(node.count), node.hash])
const unpack = (data) => {
  demand(data.length === 48, `a node of ${data.length} bytes`)
  const packed = Buffer.from(data)
  return { amount: packed.readBigUInt64BE(0), count: packed.readBigUInt64BE(8), hash: packed.subarray(16) }
}
const leaf = (amount, content) => ({
  amount: BigInt(amount), count: 1n, hash: sha256([0], number(amount), number(1), sha256(content))
})
const join2 = (left, right) => {
  demand(left.amount + right.amount <= AMOUNT_MAX, 'the amounts sum to more than 2^63 - 1')
  return {
    amount: left.amount + right.amount, count: left.count + right.count, hash: sha256([1], pack(left), pack(right))
  }
}
const splitOf = (size) => {
  let split = 1n
  while (split * 2n < size) split *= 2n
  return split
}
const rootOver = (leaves) => {
  if (leaves.length === 0) return { amount: 0n, count: 0n, hash: sha256() }
  if (leaves.length === 1) return leaves[0]
  const split = Number(splitOf(BigInt(leaves.length)))
  return join2(rootOver(leaves.slice(0, split)), rootOver(leaves.slice(split)))
}

function climb (at, index, size, path) {
  if (size === 1n) {
    demand(path.length === 0, 'the path is too long')
    return at
  }
  demand(path.length > 0, 'the path is too short')
  const beside = path[path.length - 1]
  const split = splitOf(size)
  const below = path.slice(0, -1)
  const isLeft = index < split
  demand(beside.count === (isLeft ? size - split : split), `a node of the path counts ${beside.count}`)
  return isLeft
    ? join2(climb(at, index, split, below), beside)
    : join2(beside, climb(at, index - split, size - split, below))
}

function checkProof (root, at, index, path) {
  demand(index >= 0n && index < root.count, `leaf ${index} of ${root.count}`)
  const top = climb(at, index, root.count, path)
  demand(top.amount === root.amount, `the path sums to ${top.amount}`)
  demand(same(top.hash, root.hash), 'the path does not lead to the root')
}

function trees () {
  let proofs = 0
  for (const { root, leaves } of stored('sums.json')) {
    const node = (told) => ({ amount: BigInt(told.amount), count: BigInt(told.count), hash: bytes(told.hash) })
    const made = leaves.map(({ amount, content }) => leaf(amount, bytes(content)))
    const top = rootOver(made)
    demand(same(pack(top), pack(node(root))), `a tree of ${leaves.length} has another root`)
    leaves.forEach(({ hash, path }, index) => {
      demand(same(made[index].hash, bytes(hash)), `leaf ${index} has another hash`)
      checkProof(top, made[index], BigInt(index), path.map(node))
      proofs += 1
    })
  }
  return proofs
}

// Epochs.

async function openPair (receiptEnvelope, countersignEnvelope) {
  const { record: receipt } = await openOwn('receipt', receiptEnvelope)
  const { peer, record: countersign } = await open('countersign', countersignEnvelope)
  demand(peer === receipt.gateway, "the countersign is not signed by the receipt's gateway")
  demand(same(countersign.receipt_hash, sha256(receiptEnvelope)), 'the countersign is about another receipt')
  demand(countersign.verdict !== 'accepted' || countersign.charge === receipt.charge, 'accepted at another charge')
  return { receipt, at: leaf(countersign.charge, Buffer.concat([receiptEnvelope, countersignEnvelope])) }
}

async function openRoot (envelope) {
  const { record } = await openOwn('epoch-root', envelope)
  return { ...record, node: { amount: BigInt(record.sum), count: BigInt(record.count), hash: record.root } }
}

async function checkInclusion (data) {
  const { root: envelope, place } = decode(data, { rejectDuplicateMapKeys: true })
  const root = await openRoot(envelope)
  const { receipt, at } = await openPair(place.receipt, place.countersign)
  demand(receipt.gateway === root.gateway, 'the receipt is of another gateway')
  checkProof(root.node, at, BigInt(place.index), place.path.map(unpack))
  return JSON.stringify([root.gateway, root.epoch, plain(pack(root.node)), plain(place)])
}

function * frames (data) {
  for (let at = 0; at < data.length;) {
    let length = 0
    for (let shift = 0, byte = 0x80; byte >= 0x80; shift += 7) {
      byte = data[at++]
      length += (byte & 0x7f) * 2 ** shift
    }
    yield decode(data.subarray(at, at + length))
    at += length
  }
}

async function published () {
  const [head, ...pairs] = frames(bytes(stored('epochs.json').published))
  const root = await openRoot(head.root)
  const leaves = []
  for (const pair of pairs) leaves.push((await openPair(pair.receipt, pair.countersign)).at)
  demand(same(pack(rootOver(leaves)), pack(root.node)), 'the receipts do not make the root')
  return leaves.length
}

async function inclusions () {
  const found = stored('epochs.json').entries.map((entry) => bytes(entry.inclusion))
  for (const data of found) await checkInclusion(data)
  return found.length
}

async function refusals () {
  const data = bytes(stored('epochs.json').entries[1].inclusion)
  const said = await checkInclusion(data)
  let refused = 0
  for (let at = 0; at < data.length; at++) {
    const flipped = Buffer.from(data)
    flipped[at] ^= 1
    try {
      // js-libp2p reads a few spellings of the root's envelope that nobody writes: then it says exactly the same.
      demand(await checkInclusion(flipped) === said, `an inclusion with byte ${at} flipped is accepted`)
    } catch (error) {
      demand(!error.message.startsWith('an inclusion with'), error.message)
      refused += 1
    }
  }
  return { bytes: data.length, refused }
}

try {
  console.log(JSON.stringify({
    envelopes: await envelopes(),
    proofs: trees(),
    published: await published(),
    inclusions: await inclusions(),
    flipped: await refusals()
  }))
} catch (error) {
  console.error(error.message)
  process.exitCode = 1
}
