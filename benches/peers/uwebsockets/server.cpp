// uWebSockets itself, in C++, with the contract of all peers (../README.md) and topics besides:
//
//   /fanout   sends every data message unchanged to every connection of /fanout, its sender included
//   /echo     sends every data message back
//   /topics   text messages: `S name` subscribes and is answered `s name`; `P name payload` is delivered to the
//             subscribers of `name` as `name payload`; `E text` is answered `e text`, to its sender alone
//   POST /publish/name   delivers `name body` to the subscribers of `name` and is answered by a JSON object
//   POST /broadcast      a body of names with commas, a line end and a payload: the same for each name
//
// It cannot hold a publisher back. It closes a connection with more than BACKPRESSURE_MAX bytes unsent, so that no
// loss is silent.

#include <sys/resource.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "App.h"

namespace {

constexpr unsigned BACKPRESSURE_MAX = 1u << 30;
constexpr unsigned PAYLOAD_MAX = 1u << 20;
// Larger than any publication of the load generator, like PAYLOAD_MAX.
constexpr size_t BODY_MAX = 1u << 20;
constexpr std::string_view FANOUT = "/fanout";

struct Nothing {};
using Socket = uWS::WebSocket<false, true, Nothing>;
using Response = uWS::HttpResponse<false>;

struct Publication {
    std::string topic;
    std::string message;
    uWS::OpCode opcode;
};

// Publications of this turn of the loop. Published inside the handler of a socket, more than 32 to one subscriber would
// leave as sends of their own, because that socket holds the library's only cork buffer. After the turn, the library
// gathers 32 publications for a subscriber in a send.
std::vector<Publication> pending;

void topics(Socket *socket, std::string_view message, uWS::OpCode opcode) {
    if (message.size() < 2 || message[1] != ' ') {
        socket->end(1003, "no such command");
        return;
    }
    std::string_view rest = message.substr(2);
    switch (message[0]) {
        case 'S': {
            socket->subscribe(rest);
            std::string answer = "s ";
            answer += rest;
            socket->send(answer, opcode);
            break;
        }
        case 'P': {
            size_t space = rest.find(' ');
            if (space == std::string_view::npos) {
                socket->end(1003, "no payload");
                return;
            }
            pending.push_back({std::string(rest.substr(0, space)), std::string(rest), opcode});
            break;
        }
        case 'E': {
            std::string answer = "e ";
            answer += rest;
            socket->send(answer, opcode);
            break;
        }
        default:
            socket->end(1003, "no such command");
    }
}

template <typename Open, typename Message>
uWS::App::WebSocketBehavior<Nothing> behavior(Open open, Message message) {
    uWS::App::WebSocketBehavior<Nothing> behavior;
    behavior.compression = uWS::DISABLED;
    behavior.maxPayloadLength = PAYLOAD_MAX;
    behavior.idleTimeout = 0;
    behavior.maxBackpressure = BACKPRESSURE_MAX;
    behavior.closeOnBackpressureLimit = true;
    behavior.sendPingsAutomatically = false;
    behavior.open = open;
    behavior.message = message;
    return behavior;
}

// Collects the body behind `begun`, hands all of it to `done`, and answers.
template <typename Done>
void with_body(Response *response, std::string begun, Done done) {
    response->onAborted([] {});
    response->onData([response, text = std::move(begun), done = std::move(done)](std::string_view part,
                                                                                bool last) mutable {
        if (text.size() + part.size() > BODY_MAX) {
            response->close();
            return;
        }
        text += part;
        if (last) {
            done(std::move(text));
            response->writeHeader("Content-Type", "application/json")->end("{\"published\":true}");
        }
    });
}

void publish_over_http(Response *response, uWS::HttpRequest *request) {
    std::string topic(request->getParameter(0));
    std::string begun = topic + " ";
    with_body(response, std::move(begun), [topic = std::move(topic)](std::string message) mutable {
        pending.push_back({std::move(topic), std::move(message), uWS::OpCode::TEXT});
    });
}

void broadcast_over_http(Response *response, uWS::HttpRequest *) {
    with_body(response, {}, [](std::string text) {
        size_t line = text.find('\n');
        if (line == std::string::npos) {
            return;
        }
        std::string_view names(text.data(), line), payload = std::string_view(text).substr(line + 1);
        while (!names.empty()) {
            std::string topic(names.substr(0, names.find(',')));
            names.remove_prefix(std::min(names.size(), topic.size() + 1));
            std::string message = topic + " ";
            message += payload;
            pending.push_back({std::move(topic), std::move(message), uWS::OpCode::TEXT});
        }
    });
}

void raise_file_limit() {
    rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

}  // namespace

int main(int argc, char **argv) {
    std::string listen = "127.0.0.1:0";
    if (argc == 3 && std::string_view(argv[1]) == "--listen") {
        listen = argv[2];
    } else if (argc != 1) {
        std::fprintf(stderr, "usage: %s [--listen HOST:PORT]\n", argv[0]);
        return 2;
    }
    size_t colon = listen.rfind(':');
    std::string host = listen.substr(0, colon);
    int port = std::atoi(listen.c_str() + colon + 1);
    raise_file_limit();

    uWS::App app;
    app.ws<Nothing>("/fanout", behavior([](Socket *socket) { socket->subscribe(FANOUT); },
                                        [](Socket *, std::string_view message, uWS::OpCode opcode) {
                                            pending.push_back({std::string(FANOUT), std::string(message), opcode});
                                        }));
    app.ws<Nothing>("/echo", behavior([](Socket *) {}, [](Socket *socket, std::string_view message,
                                                         uWS::OpCode opcode) { socket->send(message, opcode); }));
    app.ws<Nothing>("/topics", behavior([](Socket *) {}, topics));
    app.post("/publish/:topic", publish_over_http);
    app.post("/broadcast", broadcast_over_http);
    app.any("/*", [](Response *response, uWS::HttpRequest *) { response->writeStatus("404 Not Found")->end(); });

    // The library keeps its handlers in the order of their keys, and its own has an address for a key. So this one comes
    // first, and what it publishes leaves in the same turn.
    void *first = reinterpret_cast<void *>(1);
    uWS::Loop::get()->addPostHandler(first, [&app](uWS::Loop *) {
        for (Publication &publication : pending) {
            app.publish(publication.topic, publication.message, publication.opcode, false);
        }
        pending.clear();
    });

    bool listening = false;
    app.listen(host, port, LIBUS_LISTEN_EXCLUSIVE_PORT, [&](us_listen_socket_t *socket) {
        if (socket != nullptr) {
            listening = true;
            int actual = us_socket_local_port(0, reinterpret_cast<us_socket_t *>(socket));
            std::printf("listening on ws://%s:%d\n", host.c_str(), actual);
            std::fflush(stdout);
        }
    });
    if (!listening) {
        std::fprintf(stderr, "cannot listen on %s\n", listen.c_str());
        return 1;
    }
    app.run();
    return 0;
}
