/* SPDX-License-Identifier: MIT */
/*
 * Whole migrations over tcp as bytes: recorded between two ends of this library, and played as either end against a live one.
 *
 * A recording is text. "# ..." is a comment. A frame begins with "CHANNEL DIRECTION" in a line of its own (control, data or urgent;
 * > from the source, < from the target), and its bytes follow in hex. "ab*40" is 40 times the byte ab; "ab?" is a byte that
 * is sent as ab and may be any other when it is heard: random numbers, and what was measured.
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

/* All fail the test that calls them, with a sentence, where they cannot. */
void recording_read(struct recording *r, const char *path);
void recording_write(const struct recording *r, const char *path, const char *about);
void recording_free(struct recording *r);

/* Plays the target for a live source that connects to listener, or the source at the port of a live target, to the last frame. */
void recording_play_target(const struct recording *r, int listener);
void recording_play_source(const struct recording *r, uint16_t port);

/* A thread between a live source, which connects to listener, and a live target at port. The link has one data channel. */
struct recorder {
	struct recording recording;
	int listener;
	uint16_t port;
	pthread_t thread;
};
void recorder_start(struct recorder *r, int listener, uint16_t port);
/* Both ends have gone: *recording is complete. */
void recorder_join(struct recorder *r);

/* A listener on a free port of 127.0.0.1. */
int recording_listen(uint16_t *port);

#endif
