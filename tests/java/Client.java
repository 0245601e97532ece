// Calls the gateway with the JDK's own HttpClient as it is by default: HTTP/2 is offered on each new connection.
// Arguments: the endpoint's URL, a token, a folder. Each NAME.json there is posted; the answer becomes NAME.out.

import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.stream.Stream;

public class Client {
    public static void main(String[] args) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        List<Path> bodies;
        try (Stream<Path> files = Files.list(Path.of(args[2]))) {
            bodies = files.filter(path -> path.toString().endsWith(".json")).sorted().toList();
        }
        for (boolean counted : new boolean[] {true, false}) {
            List<CompletableFuture<Void>> calls = bodies.stream().map(path -> {
                HttpRequest request = HttpRequest.newBuilder(URI.create(args[0]))
                    .header("Authorization", "Bearer " + args[1])
                    .header("Content-Type", "application/json")
                    .timeout(Duration.ofSeconds(30))
                    .POST(body(path, counted))
                    .build();
                String name = path.toString().replace(".json", counted ? ".counted.out" : ".chunked.out");
                return client.sendAsync(request, BodyHandlers.ofFile(Path.of(name))).thenAccept(answer ->
                    System.out.println(path.getFileName() + " " + answer.statusCode() + " " + answer.version()));
            }).toList();
            calls.forEach(CompletableFuture::join);
        }
    }

    private static BodyPublisher body(Path path, boolean counted) {
        try {
            return counted
                ? BodyPublishers.ofString(Files.readString(path))
                : BodyPublishers.ofInputStream(() -> open(path));
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }

    private static InputStream open(Path path) {
        try {
            return Files.newInputStream(path);
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }
}
