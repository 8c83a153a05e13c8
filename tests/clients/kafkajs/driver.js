// kafkajs, driven by lines on standard input; ../main.rs says what each command means. It cannot
// consume without a group.
'use strict'

const fs = require('fs')
const readline = require('readline')
const { Kafka, CompressionTypes, CompressionCodecs, ConfigResourceTypes, logLevel } = require('kafkajs')
// The WebAssembly of these codecs takes `fetch` for a browser's, and ends the process on its own terms.
delete globalThis.fetch
const SnappyCodec = require('kafkajs-snappy')
const LZ4Codec = require('kafkajs-lz4')
const { ZstdCodec } = require('zstd-codec')
process.removeAllListeners('uncaughtException')
process.removeAllListeners('unhandledRejection')

const kafka = new Kafka({ clientId: 'kafkajs', brokers: [process.argv[2]], logLevel: logLevel.NOTHING })
const admin = kafka.admin()

const codecs = {
  none: CompressionTypes.None,
  gzip: CompressionTypes.GZIP,
  snappy: CompressionTypes.Snappy,
  lz4: CompressionTypes.LZ4,
  zstd: CompressionTypes.ZSTD,
}
CompressionCodecs[CompressionTypes.Snappy] = SnappyCodec
CompressionCodecs[CompressionTypes.LZ4] = new LZ4Codec().codec

function installZstd() {
  return new Promise(resolve =>
    ZstdCodec.run(zstd => {
      const simple = new zstd.Simple()
      CompressionCodecs[CompressionTypes.ZSTD] = () => ({
        compress: async encoder => Buffer.from(simple.compress(encoder.buffer)),
        decompress: async buffer => Buffer.from(simple.decompress(buffer)),
      })
      resolve()
    })
  )
}

function readRecords(path) {
  const data = fs.readFileSync(path)
  const records = []
  let at = 0
  const integer = () => data.readInt32BE((at += 4) - 4)
  const long = () => Number(data.readBigInt64BE((at += 8) - 8))
  const octets = () => {
    const length = integer()
    return length < 0 ? null : data.subarray((at += length) - length, at)
  }
  while (at < data.length) {
    const partition = integer()
    long()
    const timestamp = long()
    const key = octets()
    const value = octets()
    const headers = {}
    for (let left = integer(); left > 0; left--) {
      const name = octets().toString()
      const header = octets()
      headers[name] = name in headers ? [].concat(headers[name], [header]) : header
    }
    records.push({ partition, timestamp: timestamp < 0 ? undefined : String(timestamp), key, value, headers })
  }
  return records
}

async function produce(topic, path, codec, acks, idempotent) {
  const producer = kafka.producer(idempotent === '1' ? { idempotent: true, maxInFlightRequests: 1 } : { retry: { retries: 0 } })
  await producer.connect()
  const records = readRecords(path)
  // One send is one batch a partition; the limit keeps it under the broker's.
  for (let from = 0, to; from < records.length; from = to) {
    let bytes = 0
    for (to = from; to < records.length && (to === from || bytes < 100000); to++) {
      const next = records[to].value ? records[to].value.length : 0
      if (to > from && bytes + next > 900000) break
      bytes += next
    }
    await producer.send({
      topic,
      acks: acks === 'all' ? -1 : Number(acks),
      compression: codecs[codec],
      messages: records.slice(from, to),
    })
  }
  await producer.disconnect()
  return records.length
}

// Sends each value to partition 0 of each topic, in one transaction.
async function transact(transactionalId, topics, values, how) {
  const producer = kafka.producer({ transactionalId, idempotent: true, maxInFlightRequests: 1 })
  await producer.connect()
  const transaction = await producer.transaction()
  const messages = values.split(',').map(value => ({ partition: 0, value }))
  for (const topic of topics.split(',')) await transaction.send({ topic, messages })
  await (how === 'commit' ? transaction.commit() : transaction.abort())
  await producer.disconnect()
  return ''
}

// The first values that a reader of committed records sees, as a group of one.
async function committed(topic, count) {
  const consumer = kafka.consumer({ groupId: `committed-${topic}`, readUncommitted: false })
  await consumer.connect()
  await consumer.subscribe({ topic, fromBeginning: true })
  const values = []
  await new Promise((resolve, reject) => {
    const late = setTimeout(() => reject(new Error(`after 60 s only ${values}`)), 60000)
    consumer.run({
      eachMessage: async ({ message }) => {
        values.push(message.value.toString())
        if (values.length < Number(count)) return
        clearTimeout(late)
        resolve()
      },
    })
  })
  await consumer.disconnect()
  return values.join(',')
}

function writeRecord(chunks, partition, message) {
  const fixed = Buffer.alloc(20)
  fixed.writeInt32BE(partition)
  fixed.writeBigInt64BE(BigInt(message.offset), 4)
  fixed.writeBigInt64BE(BigInt(message.timestamp), 12)
  const octets = value => {
    const length = Buffer.alloc(4)
    length.writeInt32BE(value === null ? -1 : value.length)
    chunks.push(length)
    if (value !== null) chunks.push(value)
  }
  chunks.push(fixed)
  octets(message.key)
  octets(message.value)
  // A name that occurs several times has a list of values.
  const headers = Object.entries(message.headers || {}).flatMap(([name, value]) => [].concat(value).map(one => [name, one]))
  const count = Buffer.alloc(4)
  count.writeInt32BE(headers.length)
  chunks.push(count)
  for (const [name, value] of headers) {
    octets(Buffer.from(name))
    octets(value === undefined ? null : value)
  }
}

// Joins the group, reads until there are `least` records or more, commits what it read, and leaves.
async function group(topic, path, groupId, protocol, least) {
  const consumer = kafka.consumer({ groupId })
  await consumer.connect()
  await consumer.subscribe({ topics: [topic], fromBeginning: true })
  const chunks = []
  const positions = new Map()
  let count = 0
  await new Promise((resolve, reject) => {
    const late = setTimeout(() => reject(new Error(`${count} of ${least} after 60 s`)), 60000)
    const done = () => {
      clearTimeout(late)
      resolve()
    }
    consumer.on(consumer.events.CRASH, event => reject(event.payload.error))
    consumer
      .run({
        autoCommit: false,
        eachMessage: async ({ partition, message }) => {
          if (count >= Number(least)) return
          writeRecord(chunks, partition, message)
          positions.set(partition, BigInt(message.offset) + 1n)
          count++
          if (count === Number(least)) done()
        },
      })
      .catch(reject)
  })
  await consumer.commitOffsets([...positions].map(([partition, offset]) => ({ topic, partition, offset: String(offset) })))
  await consumer.disconnect()
  fs.writeFileSync(path, Buffer.concat(chunks))
  return count
}

async function run(name, topic, ...rest) {
  switch (name) {
    case 'group':
      return group(topic, ...rest)
    case 'produce':
      return produce(topic, ...rest)
    case 'transact':
      return transact(topic, ...rest)
    case 'committed':
      return committed(topic, ...rest)
    case 'offset': {
      const timestamp = { earliest: -2, latest: -1 }[rest[1]]
      if (timestamp !== undefined) {
        const offsets = await admin.fetchTopicOffsets(topic)
        const one = offsets.find(o => o.partition === Number(rest[0]))
        return rest[1] === 'earliest' ? one.low : one.high
      }
      const found = await admin.fetchTopicOffsetsByTimestamp(topic, Number(rest[1]))
      return found.find(o => o.partition === Number(rest[0])).offset
    }
    case 'create': {
      const configEntries = rest[1].split(',').filter(Boolean).map(pair => {
        const [key, ...value] = pair.split('=')
        return { name: key, value: value.join('=') }
      })
      const topics = [{ topic, numPartitions: Number(rest[0]), replicationFactor: 1, configEntries }]
      await admin.createTopics({ topics, waitForLeaders: true })
      return ''
    }
    case 'delete':
      await admin.deleteTopics({ topics: [topic] })
      return ''
    case 'grow':
      await admin.createPartitions({ topicPartitions: [{ topic, count: Number(rest[0]) }] })
      return ''
    case 'describe': {
      const { topics } = await admin.fetchTopicMetadata({ topics: [topic] })
      return topics[0].partitions.length
    }
    case 'get-config': {
      const { resources } = await admin.describeConfigs({
        resources: [{ type: ConfigResourceTypes.TOPIC, name: topic, configNames: [rest[0]] }],
      })
      return resources[0].configEntries.find(entry => entry.configName === rest[0]).configValue
    }
    case 'set-config':
      await admin.alterConfigs({
        resources: [{ type: ConfigResourceTypes.TOPIC, name: topic, configEntries: [{ name: rest[0], value: rest[1] }] }],
      })
      return ''
    case 'delete-records':
      await admin.deleteTopicRecords({ topic, partitions: [{ partition: Number(rest[0]), offset: rest[1] }] })
      return (await admin.fetchTopicOffsets(topic)).find(o => o.partition === Number(rest[0])).low
    case 'cluster': {
      const cluster = await admin.describeCluster()
      return [cluster.clusterId, cluster.brokers.length, cluster.controller].join('\t')
    }
    default:
      throw new Error(`no such command: ${name}`)
  }
}

async function main() {
  await installZstd()
  await admin.connect()
  for await (const line of readline.createInterface({ input: process.stdin })) {
    let answer
    try {
      answer = `ok\t${await run(...line.split('\t'))}`
    } catch (problem) {
      const text = `${problem.name}: ${problem.message} ${JSON.stringify(problem.errors || '')}`
      answer = 'error\t' + text.replace(/\\/g, '\\\\').replace(/\n/g, '\\n').replace(/\t/g, '\\t')
    }
    process.stdout.write(answer + '\n')
  }
  process.exit(0)
}

main()
