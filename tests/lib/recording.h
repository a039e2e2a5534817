/* SPDX-License-Identifier: MIT */
/*
 * Whole migrations over tcp as bytes: recorded between two ends of this library, and played as one end
 * against a live one.
 *
 * A recording is text. "# ..." is a comment. A frame begins with a line "CHANNEL DIRECTION" (control, data or
 * urgent; > from the source, < from the target); its bytes follow in hex. "ab*40" is the byte ab 40 times.
 * "ab?" is a byte that is sent as ab but may have any value when it is received: random numbers and measured
 * values.
 */
#ifndef TESTS_RECORDING_H
#define TESTS_RECORDING_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum recorded_channel { RECORDED_CONTROL, RECORDED_DATA, RECORDED_URGENT, RECORDED_CHANNELS };

struct recorded_frame {
	enum recorded_channel channel;
	bool from_source;
	unsigned line; /* in the file; 0: none */
	uint8_t *bytes;
	uint8_t *any; /* 1: the byte may be any */
	size_t len;
};

struct recording {
	struct recorded_frame *frame;
	size_t n;
};

/* On an error all of these fail the calling test with a sentence. */
void recording_read(struct recording *r, const char *path);
void recording_write(const struct recording *r, const char *path, const char *about);
void recording_free(struct recording *r);

/*
 * Play the recording to its last frame: as the target, for a live source that connects to listener; as the
 * source, to a live target at port.
 */
void recording_play_target(const struct recording *r, int listener);
void recording_play_source(const struct recording *r, uint16_t port);

/* A thread between a live source, which connects to listener, and a live target at port. One data channel. */
struct recorder {
	struct recording recording;
	int listener;
	uint16_t port;
	pthread_t thread;
};
void recorder_start(struct recorder *r, int listener, uint16_t port);
/* Returns when both ends have closed; the recording is complete then. */
void recorder_join(struct recorder *r);

/* A listener on a free port of 127.0.0.1. */
int recording_listen(uint16_t *port);

#endif
