/* The neutral client: one process with all subscribers of one server, over WebSocket or NATS.
 *
 * usage: client PORT SUBSCRIBERS ws|nats PATH NAP_US     environment: BENCH_TOKEN
 *
 * When nothing is there to read it waits for it, or with NAP_US sleeps so long and looks again: a
 * server is then not charged for waking it, as it would not be for a client on another machine.
 *
 * PATH may hold one %d, the subscriber's number. Once all are open it prints "open". Each line
 * "EVENTS" on its input asks for so many events at each subscriber: "waits" is the answer, and
 * when they came "came P50_US SEGMENTS": the median latency by the "sent" stamp (CLOCK_MONOTONIC, ns) in each
 * event, and how many TCP segments with data brought them, by tcp_info: so many writes there were at least.
 * It ends with 1 when a connection ends, and when one subscriber got more than another.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST_MESSAGE = 16384, READ_BYTES = 262144, MOST_SAMPLES = 1000000 };

typedef struct {
    int fd;
    int is_open;
    long events;
    size_t carried;
    char carry[MOST_MESSAGE]; /* the beginning of a message whose rest is to come */
} Subscriber;

static const char EVENT[] = "{\"type\":\"event\"", SENT[] = "\"sent\":";
static int is_nats;
static long came, wanted;
static unsigned *samples;
static long sampled;

static void fail(const char *what) {
    fprintf(stderr, "client: %s: %s\n", what, strerror(errno));
    exit(1);
}

static long now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000L + now.tv_nsec;
}

static void take(Subscriber *one, const char *message, size_t size, long now) {
    if (size < sizeof EVENT || memcmp(message, EVENT, sizeof EVENT - 1)) return;
    one->events++;
    came++;
    const char *sent = memmem(message, size, SENT, sizeof SENT - 1);
    if (sent && sampled < MOST_SAMPLES)
        samples[sampled++] = (unsigned)((now - atol(sent + sizeof SENT - 1)) / 1000);
}

/* Takes one WebSocket frame; gives its bytes, 0 where it is not whole yet. */
static size_t take_frame(Subscriber *one, const char *data, size_t size, long now) {
    const unsigned char *head = (const unsigned char *)data;
    if (size < 2) return 0;
    size_t length = head[1] & 0x7f, offset = 2;
    if (length == 126) {
        if (size < 4) return 0;
        length = head[2] << 8 | head[3], offset = 4;
    } else if (length == 127) fail("a frame is too large");
    if (size < offset + length) return 0;
    if ((head[0] & 0x0f) == 8) fail("the server closed");
    if ((head[0] & 0x0f) == 1) take(one, data + offset, length, now);
    return offset + length;
}

/* Takes one NATS line, with its message if it is one. */
static size_t take_line(Subscriber *one, const char *data, size_t size, long now) {
    const char *end = memmem(data, size, "\r\n", 2);
    if (!end) return 0;
    size_t line = end + 2 - data;
    if (!memcmp(data, "-ERR", 4)) fail("the server refused");
    if (memcmp(data, "MSG ", 4)) return line;
    const char *last = end;
    while (last[-1] != ' ') last--;
    size_t length = strtoul(last, NULL, 10);
    if (size < line + length + 2) return 0;
    take(one, data + line, length, now);
    return line + length + 2;
}

static size_t take_opening(Subscriber *one, const char *data, size_t size) {
    const char *until = is_nats ? "PONG\r\n" : "\r\n\r\n";
    const char *end = memmem(data, size, until, strlen(until));
    if (!end) return 0;
    if (!is_nats && memcmp(data, "HTTP/1.1 101", 12)) {
        fprintf(stderr, "client: refused: %.*s\n", (int)size, data);
        exit(1);
    }
    one->is_open = 1;
    return end + strlen(until) - data;
}

static void receive(Subscriber *one) {
    static char buffer[MOST_MESSAGE + READ_BYTES];
    memcpy(buffer, one->carry, one->carried);
    ssize_t got = read(one->fd, buffer + one->carried, READ_BYTES);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) fail("a connection ended");
    size_t size = one->carried + got, at = 0, used;
    long now = now_ns();
    do {
        if (!one->is_open) used = take_opening(one, buffer + at, size - at);
        else if (is_nats) used = take_line(one, buffer + at, size - at, now);
        else used = take_frame(one, buffer + at, size - at, now);
        at += used;
    } while (used && at < size);
    one->carried = size - at;
    if (one->carried > MOST_MESSAGE) fail("a message is too large");
    memcpy(one->carry, buffer + at, one->carried);
}

static void open_one(Subscriber *one, int number, int port, const char *path) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    const char *token = getenv("BENCH_TOKEN");
    char place[512], request[2048];
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    one->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (one->fd < 0 || connect(one->fd, (struct sockaddr *)&address, sizeof address)) fail("connect");
    int yes = 1;
    setsockopt(one->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    snprintf(place, sizeof place, path, number);
    if (is_nats)
        snprintf(request, sizeof request,
                 "CONNECT {\"verbose\":false,\"pedantic\":false}\r\nSUB events 1\r\nPING\r\n");
    else
        snprintf(request, sizeof request,
                 "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                 "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                 "Authorization: Bearer %s\r\n\r\n",
                 place, port, token ? token : "none");
    if (write(one->fd, request, strlen(request)) < 0) fail("write");
    while (!one->is_open) receive(one);
    fcntl(one->fd, F_SETFL, O_NONBLOCK);
}

static int by_value(const void *left, const void *right) {
    unsigned a = *(const unsigned *)left, b = *(const unsigned *)right;
    return a < b ? -1 : a > b;
}

static long segments(const Subscriber *all, int count) {
    long sum = 0;
    for (int i = 0; i < count; i++) {
        struct tcp_info info;
        socklen_t size = sizeof info;
        if (getsockopt(all[i].fd, IPPROTO_TCP, TCP_INFO, &info, &size)) fail("getsockopt");
        sum += info.tcpi_data_segs_in;
    }
    return sum;
}

static void report(const Subscriber *all, int count) {
    static long before;
    long now = segments(all, count);
    for (int i = 1; i < count; i++)
        if (all[i].events != all[0].events) fail("one subscriber got more than another");
    qsort(samples, sampled, sizeof *samples, by_value);
    printf("came %u %ld\n", samples[sampled / 2], now - before);
    before = now;
    came = wanted = sampled = 0;
}

int main(int argc, char **argv) {
    if (argc != 6) return 2;
    int count = atoi(argv[2]), nap_us = atoi(argv[5]), queue = epoll_create1(0);
    is_nats = !strcmp(argv[3], "nats");
    Subscriber *all = calloc(count, sizeof *all);
    samples = calloc(MOST_SAMPLES, sizeof *samples);
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int i = 0; i < count; i++) {
        open_one(&all[i], i, atoi(argv[1]), argv[4]);
        struct epoll_event readable = {.events = EPOLLIN, .data.ptr = &all[i]};
        epoll_ctl(queue, EPOLL_CTL_ADD, all[i].fd, &readable);
    }
    struct epoll_event asked = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(queue, EPOLL_CTL_ADD, 0, &asked);
    puts("open");
    for (;;) {
        struct epoll_event ready[256];
        int found = epoll_wait(queue, ready, 256, nap_us ? 0 : -1);
        if (!found) usleep(nap_us);
        for (int i = 0; i < found; i++) {
            char line[64];
            if (ready[i].data.ptr) {
                receive(ready[i].data.ptr);
                continue;
            }
            ssize_t size = read(0, line, sizeof line - 1);
            if (size <= 0) return 0;
            line[size] = 0;
            wanted = atol(line) * count;
            puts("waits");
        }
        if (wanted && came > wanted) fail("more came than was asked for");
        if (wanted && came == wanted) report(all, count);
    }
}
