// franz-go, driven by lines on standard input; ../main.rs says what each command means.
package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

var bootstrap string
var admin *kadm.Client

func main() {
	bootstrap = os.Args[1]
	client, err := kgo.NewClient(kgo.SeedBrokers(bootstrap))
	if err != nil {
		panic(err)
	}
	admin = kadm.NewClient(client)
	lines := bufio.NewReader(os.Stdin)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		answer, err := run(ctx, strings.Split(strings.TrimSuffix(line, "\n"), "\t"))
		cancel()
		if err != nil {
			text := strings.NewReplacer("\\", "\\\\", "\n", "\\n", "\t", "\\t").Replace(err.Error())
			fmt.Printf("error\t%s\n", text)
		} else {
			fmt.Printf("ok\t%s\n", answer)
		}
	}
}

func number(text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		panic(err)
	}
	return n
}

func run(ctx context.Context, command []string) (string, error) {
	rest := command[1:]
	switch command[0] {
	case "produce":
		return produce(ctx, rest[0], rest[1], rest[2], rest[3], rest[4] == "1")
	case "consume":
		return consume(ctx, rest[0], rest[1], rest[2])
	case "transact":
		return "", transact(ctx, rest[0], strings.Split(rest[1], ","), strings.Split(rest[2], ","), rest[3] == "commit")
	case "committed":
		return committed(ctx, rest[0], int(number(rest[1])))
	case "group":
		return group(ctx, rest[0], rest[1], rest[2], int(number(rest[4])))
	case "offset":
		return offset(ctx, rest[0], int32(number(rest[1])), rest[2])
	case "create":
		configs := map[string]*string{}
		for _, pair := range strings.Split(rest[2], ",") {
			if name, value, found := strings.Cut(pair, "="); found {
				configs[name] = &value
			}
		}
		_, err := admin.CreateTopic(ctx, int32(number(rest[1])), 1, configs, rest[0])
		return "", err
	case "delete":
		_, err := admin.DeleteTopic(ctx, rest[0])
		return "", err
	case "grow":
		grown, err := admin.UpdatePartitions(ctx, int(number(rest[1])), rest[0])
		if err != nil {
			return "", err
		}
		_, err = grown.On(rest[0], func(r *kadm.CreatePartitionsResponse) error { return r.Err })
		return "", err
	case "describe":
		// A client of its own: kadm answers from what its client heard in the last seconds.
		fresh, err := kgo.NewClient(kgo.SeedBrokers(bootstrap))
		if err != nil {
			return "", err
		}
		defer fresh.Close()
		topics, err := kadm.NewClient(fresh).ListTopics(ctx, rest[0])
		if err != nil {
			return "", err
		}
		return strconv.Itoa(len(topics[rest[0]].Partitions)), topics[rest[0]].Err
	case "get-config":
		configs, err := admin.DescribeTopicConfigs(ctx, rest[0])
		if err != nil {
			return "", err
		}
		topic, err := configs.On(rest[0], nil)
		if err != nil {
			return "", err
		}
		for _, config := range topic.Configs {
			if config.Key == rest[1] {
				return config.MaybeValue(), topic.Err
			}
		}
		return "", errors.New("no such config")
	case "set-config":
		set := kadm.AlterConfig{Op: kadm.SetConfig, Name: rest[1], Value: &rest[2]}
		altered, err := admin.AlterTopicConfigs(ctx, []kadm.AlterConfig{set}, rest[0])
		if err != nil {
			return "", err
		}
		_, err = altered.On(rest[0], func(r *kadm.AlterConfigsResponse) error { return r.Err })
		return "", err
	case "delete-records":
		var before kadm.Offsets
		before.AddOffset(rest[0], int32(number(rest[1])), number(rest[2]), -1)
		deleted, err := admin.DeleteRecords(ctx, before)
		if err != nil {
			return "", err
		}
		one, _ := deleted.Lookup(rest[0], int32(number(rest[1])))
		return strconv.FormatInt(one.LowWatermark, 10), one.Err
	case "log-dirs":
		described, err := admin.DescribeAllLogDirs(ctx, nil)
		if err != nil {
			return "", err
		}
		var bytes int64
		for _, folders := range described {
			folders.EachPartition(func(p kadm.DescribedLogDirPartition) {
				if p.Topic == rest[0] {
					bytes += p.Size
				}
			})
		}
		return strconv.FormatInt(bytes, 10), nil
	case "cluster":
		cluster, err := admin.BrokerMetadata(ctx)
		return fmt.Sprintf("%s\t%d\t%d", cluster.Cluster, len(cluster.Brokers), cluster.Controller), err
	case "producers":
		var topics kadm.TopicsSet
		topics.Add(rest[0], int32(number(rest[1])))
		described, err := admin.DescribeProducers(ctx, topics)
		if err != nil {
			return "", err
		}
		partition := described[rest[0]].Partitions[int32(number(rest[1]))]
		return strconv.Itoa(len(partition.ActiveProducers)), partition.Err
	}
	return "", fmt.Errorf("no such command: %s", command[0])
}

func produce(ctx context.Context, topic, path, codec, acks string, idempotent bool) (string, error) {
	records, err := readRecords(topic, path)
	if err != nil {
		return "", err
	}
	options := []kgo.Opt{
		kgo.SeedBrokers(bootstrap),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchMaxBytes(1100000),
		kgo.ProducerLinger(5 * time.Millisecond),
		kgo.RequiredAcks(map[string]kgo.Acks{"0": kgo.NoAck(), "1": kgo.LeaderAck(), "all": kgo.AllISRAcks()}[acks]),
		kgo.ProducerBatchCompression(map[string]kgo.CompressionCodec{
			"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
			"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
		}[codec]),
	}
	if !idempotent {
		options = append(options, kgo.DisableIdempotentWrite())
	}
	client, err := kgo.NewClient(options...)
	if err != nil {
		return "", err
	}
	defer client.Close()
	problems := make(chan error, len(records))
	for _, record := range records {
		client.Produce(ctx, record, func(_ *kgo.Record, err error) { problems <- err })
	}
	for range records {
		if err := <-problems; err != nil {
			return "", err
		}
	}
	offsets, err := os.Create(path + ".offsets")
	if err != nil {
		return "", err
	}
	defer offsets.Close()
	out := bufio.NewWriter(offsets)
	for _, record := range records {
		offset := record.Offset
		if acks == "0" {
			offset = -1
		}
		binary.Write(out, binary.BigEndian, offset)
	}
	return strconv.Itoa(len(records)), out.Flush()
}

// Sends each value to partition 0 of each topic, in one transaction.
func transact(ctx context.Context, id string, topics, values []string, commit bool) error {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(bootstrap),
		kgo.TransactionalID(id),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
	)
	if err != nil {
		return err
	}
	defer client.Close()
	if err := client.BeginTransaction(); err != nil {
		return err
	}
	for _, topic := range topics {
		for _, value := range values {
			record := &kgo.Record{Topic: topic, Value: []byte(value)}
			if err := client.ProduceSync(ctx, record).FirstErr(); err != nil {
				return err
			}
		}
	}
	if commit {
		return client.EndTransaction(ctx, kgo.TryCommit)
	}
	return client.EndTransaction(ctx, kgo.TryAbort)
}

// The first values of partition 0 that a reader of committed records sees.
func committed(ctx context.Context, topic string, count int) (string, error) {
	start := map[int32]kgo.Offset{0: kgo.NewOffset().At(0)}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(bootstrap),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: start}),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
	)
	if err != nil {
		return "", err
	}
	defer client.Close()
	values := []string{}
	for len(values) < count {
		fetches := client.PollFetches(ctx)
		if problems := fetches.Errors(); len(problems) > 0 {
			return "", fmt.Errorf("only %v: %w", values, problems[0].Err)
		}
		fetches.EachRecord(func(record *kgo.Record) {
			values = append(values, string(record.Value))
		})
	}
	return strings.Join(values, ","), nil
}

func consume(ctx context.Context, topic, path, ranges string) (string, error) {
	starts := map[int32]kgo.Offset{}
	ends := map[int32]int64{}
	left := map[int32]int64{}
	for _, part := range strings.Split(ranges, ",") {
		numbers := strings.Split(part, ":")
		partition, start, end := int32(number(numbers[0])), number(numbers[1]), number(numbers[2])
		starts[partition] = kgo.NewOffset().At(start)
		ends[partition] = end
		if end > start {
			left[partition] = end - start
		}
	}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(bootstrap),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: starts}),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
	)
	if err != nil {
		return "", err
	}
	defer client.Close()
	file, err := os.Create(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	out := bufio.NewWriter(file)
	count := 0
	for len(left) > 0 {
		fetches := client.PollFetches(ctx)
		if problems := fetches.Errors(); len(problems) > 0 {
			return "", fmt.Errorf("still to come %v: %w", left, problems[0].Err)
		}
		fetches.EachRecord(func(record *kgo.Record) {
			if record.Offset < ends[record.Partition] {
				writeRecord(out, record)
				count++
				left[record.Partition] = ends[record.Partition] - record.Offset - 1
				if left[record.Partition] == 0 {
					delete(left, record.Partition)
				}
			}
		})
	}
	return strconv.Itoa(count), out.Flush()
}

// Joins the group, reads until there are `least` records or more, commits what it read, and leaves.
func group(ctx context.Context, topic, path, name string, least int) (string, error) {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(bootstrap),
		kgo.ConsumerGroup(name),
		kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.DisableAutoCommit(),
	)
	if err != nil {
		return "", err
	}
	defer client.Close()
	file, err := os.Create(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	out := bufio.NewWriter(file)
	count := 0
	for count < least {
		fetches := client.PollRecords(ctx, 100)
		if problems := fetches.Errors(); len(problems) > 0 {
			return "", fmt.Errorf("%d of %d: %w", count, least, problems[0].Err)
		}
		fetches.EachRecord(func(record *kgo.Record) {
			writeRecord(out, record)
			count++
		})
	}
	if err := client.CommitUncommittedOffsets(ctx); err != nil {
		return "", err
	}
	client.LeaveGroup()
	return strconv.Itoa(count), out.Flush()
}

func offset(ctx context.Context, topic string, partition int32, which string) (string, error) {
	var listed kadm.ListedOffsets
	var err error
	switch which {
	case "earliest":
		listed, err = admin.ListStartOffsets(ctx, topic)
	case "latest":
		listed, err = admin.ListEndOffsets(ctx, topic)
	case "max":
		listed, err = admin.ListMaxTimestampOffsets(ctx, topic)
	default:
		listed, err = admin.ListOffsetsAfterMilli(ctx, number(which), topic)
	}
	if err != nil {
		return "", err
	}
	one, _ := listed.Lookup(topic, partition)
	return strconv.FormatInt(one.Offset, 10), one.Err
}

func readRecords(topic, path string) ([]*kgo.Record, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	in := bufio.NewReader(file)
	var records []*kgo.Record
	for {
		var fixed struct {
			Partition         int32
			Offset, Timestamp int64
		}
		if err := binary.Read(in, binary.BigEndian, &fixed); err == io.EOF {
			return records, nil
		} else if err != nil {
			return nil, err
		}
		record := &kgo.Record{Topic: topic, Partition: fixed.Partition, Key: readOctets(in), Value: readOctets(in)}
		if fixed.Timestamp >= 0 {
			record.Timestamp = time.UnixMilli(fixed.Timestamp)
		}
		var headers int32
		binary.Read(in, binary.BigEndian, &headers)
		for ; headers > 0; headers-- {
			name := string(readOctets(in))
			record.Headers = append(record.Headers, kgo.RecordHeader{Key: name, Value: readOctets(in)})
		}
		records = append(records, record)
	}
}

func readOctets(in io.Reader) []byte {
	var length int32
	binary.Read(in, binary.BigEndian, &length)
	if length < 0 {
		return nil
	}
	octets := make([]byte, length)
	io.ReadFull(in, octets)
	return octets
}

func writeRecord(out io.Writer, record *kgo.Record) {
	binary.Write(out, binary.BigEndian, record.Partition)
	binary.Write(out, binary.BigEndian, record.Offset)
	binary.Write(out, binary.BigEndian, record.Timestamp.UnixMilli())
	writeOctets(out, record.Key)
	writeOctets(out, record.Value)
	binary.Write(out, binary.BigEndian, int32(len(record.Headers)))
	for _, header := range record.Headers {
		writeOctets(out, []byte(header.Key))
		writeOctets(out, header.Value)
	}
}

func writeOctets(out io.Writer, octets []byte) {
	if octets == nil {
		binary.Write(out, binary.BigEndian, int32(-1))
		return
	}
	binary.Write(out, binary.BigEndian, int32(len(octets)))
	out.Write(octets)
}
