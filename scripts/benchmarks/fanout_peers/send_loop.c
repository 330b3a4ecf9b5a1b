/* The floor: an event, and one `send` of it for each subscriber.
 *
 * usage: send_loop SUBSCRIBERS. It prints its port, takes so many subscribers, then obeys lines
 * "EVENTS SCOPED": as many events at once; SCOPED sends each to one subscriber in turn instead of
 * to all.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { EVENT_BYTES = 300, HEAD_BYTES = 4 };

static int *subscribers, count;

static void fail(const char *what) {
    fprintf(stderr, "send_loop: %s: %s\n", what, strerror(errno));
    exit(1);
}

static long now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000L + now.tv_nsec;
}

static void send_to(int fd, const char *frame, size_t size) {
    while (size) {
        ssize_t sent = send(fd, frame, size, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) {
            struct pollfd writable = {.fd = fd, .events = POLLOUT};
            poll(&writable, 1, -1);
        } else if (sent < 0) fail("send");
        else frame += sent, size -= sent;
    }
}

static void publish(long events, int scoped) {
    char frame[HEAD_BYTES + EVENT_BYTES + 1] = {(char)0x81, 126, EVENT_BYTES >> 8, EVENT_BYTES & 0xff};
    for (long event = 0; event < events; event++) {
        char *payload = frame + HEAD_BYTES;
        int size = snprintf(payload, EVENT_BYTES, "{\"type\":\"event\",\"sent\":%ld,\"fill\":\"",
                            now_ns());
        memset(payload + size, 'x', EVENT_BYTES - size - 2);
        memcpy(payload + EVENT_BYTES - 2, "\"}", 2);
        if (scoped) send_to(subscribers[event % count], frame, HEAD_BYTES + EVENT_BYTES);
        else
            for (int i = 0; i < count; i++) send_to(subscribers[i], frame, HEAD_BYTES + EVENT_BYTES);
    }
}

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    count = atoi(argv[1]);
    subscribers = calloc(count, sizeof *subscribers);
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t size = sizeof address;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 1024)) fail("listen");
    getsockname(listener, (struct sockaddr *)&address, &size);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    for (int i = 0; i < count; i++) {
        static const char answer[] =
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
        char request[4096];
        int yes = 1;
        subscribers[i] = accept(listener, NULL, NULL);
        if (read(subscribers[i], request, sizeof request) <= 0) fail("read");
        setsockopt(subscribers[i], IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        send_to(subscribers[i], answer, sizeof answer - 1);
    }
    char line[128];
    while (fgets(line, sizeof line, stdin)) {
        long events;
        int scoped;
        if (sscanf(line, "%ld %d", &events, &scoped) != 2) fail(line);
        publish(events, scoped);
    }
    return 0;
}
