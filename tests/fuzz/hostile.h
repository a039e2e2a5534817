/* SPDX-License-Identifier: MIT */
/*
 * A hostile peer, played from an input: one end of a session over mem, against a whole real session in
 * another thread.
 *
 * An input is four bytes of set-up (struct play) and steps of 16 bytes each. The peer first behaves correctly
 * for as many turns as the set-up says, which brings both ends to any phase; then it takes the steps. A step
 * that sends a message takes the message that a correct peer would send there and applies the patches that
 * came before. So the header is correct unless a step changes it, and the session reads the body.
 */
#ifndef TESTS_FUZZ_HOSTILE_H
#define TESTS_FUZZ_HOSTILE_H

#include "vm.h"
#include "runtime/base/fail.h"
#include "runtime/session/session.h"

#define PLAY_STEPS_MAX 64u
#define PLAY_MAX (sizeof(struct play) + PLAY_STEPS_MAX * sizeof(struct play_step))
#define PATCHES_MAX 4u

enum play_flags {
	PLAY_SHARED = 1,
	PLAY_HOLD = 2,	      /* the target can hold output (a hostile target says so) */
	PLAY_ARBITER = 4,     /* both ends have an arbiter */
	PLAY_RECONNECT = 8,   /* a lost link may come back */
	PLAY_SWITCHOVER = 16, /* commit at the switchover */
	PLAY_LIMIT = 32,      /* the tentative run is limited */
	PLAY_EARLY = 64,      /* commit at the limit */
	PLAY_TWO = 128,	      /* two data channels */
};

struct play {
	uint8_t flags;
	uint8_t turns;	/* turns of correct behaviour */
	uint8_t mode;	/* enum ferry_mode, modulo 3; a hostile source: 2 leaves a residue */
	uint8_t writes; /* low half: of the source's guest; high half: arbiter, 1 source, 2 target, 3 mute */
};
_Static_assert(sizeof(struct play) == 4, "");

enum play_op {
	STEP_DECENT,	/* a turn of correct behaviour */
	STEP_SAY,	/* send a message of this type */
	STEP_PATCH,	/* in the next message's body (of type, if not 0): 1 << width bytes of v, offset at */
	STEP_PATCH_HDR, /* in its header */
	STEP_LENGTH,	/* the next body has n bytes */
	STEP_HEAR,	/* until a message of type has come, or none for a while */
	STEP_PUT,	/* n pages from page v of region type */
	STEP_GET,
	STEP_FENCE,
	STEP_END,
	STEP_EXPOSE, /* the own memory, access type, in pages of 1 << (12 + at % 2) */
	STEP_KILL,
	STEP_CONNECT, /* generation + type; another session if at is odd */
	STEP_CANCEL,  /* ferry_cancel() at the real end */
	STEP_SWITCHOVER,
	STEP_PING, /* with v and n */
	STEP_OPS
};

struct play_step {
	uint8_t op; /* modulo STEP_OPS */
	uint8_t type;
	uint8_t at, width;
	uint32_t n;
	uint64_t v;
};
_Static_assert(sizeof(struct play_step) == 16, "");

struct patch {
	bool header;
	uint8_t type; /* 0: any */
	uint8_t at, width;
	uint64_t v;
};

struct hostile {
	bool is_source;
	struct play play;
	struct vm vm; /* the real end's */
	struct ferry_session *session;
	struct ferry_result res;
	pthread_t thread;

	struct xport_param param;
	struct xport_listener *listener; /* a hostile target's */
	struct xport_link *link;	 /* NULL: none */
	struct xport_chan *ctl;
	struct fail fail;
	char uri[64];
	uint32_t generation, seq;
	struct fuzz_mem ram;  /* the memory behind all regions that the peer claims */
	uint64_t deadline_us; /* the peer gives up then */

	struct patch patch[PATCHES_MAX];
	unsigned npatches;
	int64_t length; /* of the next body; negative: unchanged */

	/* what was sent and received */
	unsigned said[WIRE_TYPES];
	bool over;		       /* REFUSED or ABORT was received */
	uint32_t said_commit;	       /* the largest commit state in a HELLO_ACK */
	uint64_t named[VM_REGIONS][2]; /* by RESIDUE */
	uint32_t round;
	unsigned turn;
	bool armed; /* PREARM was received */
	uint64_t left;
	struct ferry_stream state; /* STATE that was sent since HELLO or MAP */
	uint8_t msg[XPORT_MSG_MAX];
	size_t heard_len;
};

/* Times to wait: short for fuzzers, for which a lost link is a result like any; in tests never reached. */
struct hostile_pace {
	uint64_t turn_us;		   /* the peer, for an answer; a session answers sooner, if at all */
	uint64_t patience_us;		   /* the peer, in all */
	uint64_t timeout_us, reconnect_us; /* the session's */
};
extern struct hostile_pace hostile_pace;

/* Whole executions. *res, if not NULL, gets the session's result. */
void play_hostile_source(const uint8_t *data, size_t size, struct ferry_result *res);
void play_hostile_target(const uint8_t *data, size_t size, struct ferry_result *res);
/* If not NULL, it is called with every message that either end sends; for the seeds. */
extern void (*hostile_tap)(const void *msg, size_t len, bool from_source, enum ferry_phase phase);

/* ---- shared by both hostile ends ---- */

void hostile_up(struct hostile *h, bool is_source, const struct play *play);
void hostile_down(struct hostile *h);
void *hostile_session(void *arg); /* thread: ferry_run() */
void hostile_config(const struct hostile *h, struct ferry_config *c);
/* Receive the next message that is no PING into h->msg. Its type; 0: none came, or the link is gone. */
unsigned hostile_hear(struct hostile *h);
bool hostile_hear_until(struct hostile *h, uint32_t mask);
/* Send a message with this body, after patching. */
void hostile_say(struct hostile *h, enum wire_type t, const void *body, size_t len);
void hostile_expose(struct hostile *h, enum xport_access access);
void hostile_end_puts(struct hostile *h);
void hostile_drop(struct hostile *h);

struct hostile_role {
	void (*turn)(struct hostile *h);
	/* Fill in a correct body of that type; returns its length. */
	size_t (*body)(struct hostile *h, enum wire_type t, uint8_t *body);
	void (*connect)(struct hostile *h, unsigned more, bool other);
};
void hostile_play(struct hostile *h, const struct hostile_role *role, struct fuzz_in *in);
size_t hostile_mutate(uint8_t *data, size_t size, size_t max, unsigned seed);

#endif
