import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.lang.management.ManagementFactory;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.TreeMap;
import software.amazon.event.ruler.Machine;

// AWS event-ruler behind the protocol of tests/bench/match_figures.py: commands on standard input,
// a line of JSON for each on standard output.
//
//   load RULES EVENTS   files of JSON lines; the rules are named by their numbers
//   count               matches of each rule over all events
//   run SECONDS         events matched, again and again from the first; of core time
//   build SECONDS       rules added to new machines
public final class RulerPeer {
  private List<String> rules;
  private List<String> events;
  private Machine machine;
  private int next = 0;

  // Of this thread: neither waiting for a core nor the virtual machine's own threads.
  private static long coreNanos() {
    return ManagementFactory.getThreadMXBean().getCurrentThreadCpuTime();
  }

  private static Machine build(List<String> rules) throws Exception {
    Machine made = new Machine();
    for (int i = 0; i < rules.size(); ++i) made.addRule(Integer.toString(i), rules.get(i));
    return made;
  }

  private static long usedBytes() throws Exception {
    // What is left once nothing more can be collected.
    long used = Long.MAX_VALUE;
    for (int i = 0; i < 6; ++i) {
      System.gc();
      Runtime runtime = Runtime.getRuntime();
      used = Math.min(used, runtime.totalMemory() - runtime.freeMemory());
    }
    return used;
  }

  private void load(String rulesFile, String eventsFile) throws Exception {
    machine = null;
    rules = Files.readAllLines(Path.of(rulesFile), StandardCharsets.UTF_8);
    events = Files.readAllLines(Path.of(eventsFile), StandardCharsets.UTF_8);
    long before = usedBytes();
    machine = build(rules);
    System.out.printf(Locale.ROOT, "{\"rules\":%d,\"bytes\":%d}%n", rules.size(),
        usedBytes() - before);
  }

  private void count() throws Exception {
    Map<Integer, Long> counts = new TreeMap<>();
    for (String event : events) {
      for (String name : machine.rulesForJSONEvent(event)) {
        counts.merge(Integer.valueOf(name), 1L, Long::sum);
      }
    }
    StringBuilder text = new StringBuilder("{\"matches\":[");
    for (int i = 0; i < rules.size(); ++i) {
      if (i > 0) text.append(',');
      text.append(counts.getOrDefault(i, 0L));
    }
    System.out.println(text.append("]}"));
  }

  private void run(double seconds) throws Exception {
    long found = 0;
    long done = 0;
    long start = coreNanos();
    long end = start + (long) (seconds * 1e9);
    while (coreNanos() < end) {
      for (int i = 0; i < 64; ++i) {
        found += machine.rulesForJSONEvent(events.get(next)).size();
        next = next + 1 == events.size() ? 0 : next + 1;
      }
      done += 64;
    }
    System.out.printf(Locale.ROOT, "{\"count\":%d,\"seconds\":%.6f,\"matches\":%d}%n", done,
        (coreNanos() - start) / 1e9, found);
  }

  private void build(double seconds) throws Exception {
    long done = 0;
    long start = coreNanos();
    long end = start + (long) (seconds * 1e9);
    do {
      build(rules);
      done += rules.size();
    } while (coreNanos() < end);
    System.out.printf(Locale.ROOT, "{\"count\":%d,\"seconds\":%.6f}%n", done,
        (coreNanos() - start) / 1e9);
  }

  public static void main(String[] arguments) throws Exception {
    RulerPeer peer = new RulerPeer();
    BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    for (String line = in.readLine(); line != null; line = in.readLine()) {
      String[] words = line.split(" ");
      switch (words[0]) {
        case "load" -> peer.load(words[1], words[2]);
        case "count" -> peer.count();
        case "run" -> peer.run(Double.parseDouble(words[1]));
        case "build" -> peer.build(Double.parseDouble(words[1]));
        default -> throw new IllegalArgumentException(line);
      }
      System.out.flush();
    }
  }
}
