// Writes the golden files beside it with Apache Kafka 4.3.1: see README.md.
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.*;
import java.util.*;
import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.record.*;
import org.apache.kafka.common.record.internal.*;
import org.apache.kafka.storage.internals.log.*;

public class Golden {
    static byte[] b(String s) { return s == null ? null : s.getBytes(StandardCharsets.UTF_8); }
    static String repeat(String s, int n) { return s.repeat(n); }
    public static void main(String[] args) throws Exception {
        Path dir = Paths.get(args[0]);
        for (CompressionType type : CompressionType.values()) {
            Compression c = Compression.of(type).build();
            var out = new org.apache.kafka.common.utils.ByteBufferOutputStream(200_000);
            MemoryRecordsBuilder m = new MemoryRecordsBuilder(out, RecordBatch.MAGIC_VALUE_V2, c, TimestampType.CREATE_TIME,
                0L, RecordBatch.NO_TIMESTAMP, 4711L, (short) 3, 2147483646, true, false, -1, 200_000);
            m.append(1700000000000L, b("key"), b("value"), new Header[0]);
            m.append(1700000000005L, null, b("no key"), new Header[] { new RecordHeader("h", b("v")), new RecordHeader("h", (byte[]) null), new RecordHeader("", b("")) });
            m.append(1699999999000L, b("tombstone"), null, new Header[0]);
            m.append(1700000000005L, (byte[]) null, (byte[]) null, new Header[0]);
            m.append(1700000000001L, b(""), b(repeat("0123456789abcdef", 6000)), new Header[] { new RecordHeader("gr\u00fc\u00dfe", b(repeat("x", 300))) });
            MemoryRecords r = m.build();
            ByteBuffer buf = r.buffer().duplicate();
            byte[] bytes = new byte[buf.remaining()];
            buf.get(bytes);
            Files.write(dir.resolve("java-" + type.name + ".batch"), bytes);
        }
        MemoryRecords marker = MemoryRecords.withEndTransactionMarker(0L, 1700000000000L, -1, 4711L, (short) 3, new EndTransactionMarker(ControlRecordType.ABORT, 9));
        ByteBuffer buf = marker.buffer().duplicate();
        byte[] bytes = new byte[buf.remaining()];
        buf.get(bytes);
        Files.write(dir.resolve("java-abort-marker.batch"), bytes);

        LinkedHashMap<Long, ProducerStateEntry> entries = new LinkedHashMap<>();
        ProducerStateEntry one = new ProducerStateEntry(1L, (short) 2, -1, 99L, OptionalLong.empty());
        ProducerStateEntry two = new ProducerStateEntry(7L, (short) 0, 3, 5L, OptionalLong.of(80L));
        var add = ProducerStateEntry.class.getDeclaredMethod("addBatch", short.class, int.class, long.class, int.class, long.class);
        add.setAccessible(true);
        add.invoke(one, (short) 2, 9, 109L, 4, 99L);
        entries.put(1L, one);
        entries.put(7L, two);
        ProducerStateManager.writeSnapshot(dir.resolve("java-producers.snapshot").toFile(), entries, false);
    }
}
