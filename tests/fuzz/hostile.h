/* SPDX-License-Identifier: MIT */
/*
 * A hostile peer, played from an input: one end of a session over mem, against a whole real session in
 * another thread.
 *
 * An input is four bytes of set-up (struct play) and steps of 16 bytes each. The peer first behaves for as
 * many turns as the set-up says, which brings both ends to any phase; then the steps say what it does. A
 * message of a step is what a decent peer would send there, changed by the patches that came before it; so
 * its header is right unless a step says otherwise, and the session looks at what is in it.
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
	PLAY_HOLD = 2,	      /* target: output can be held; source's peer says so */
	PLAY_ARBITER = 4,     /* both ends have one */
	PLAY_RECONNECT = 8,   /* a lost link may come back */
	PLAY_SWITCHOVER = 16, /* commit at the switchover */
	PLAY_LIMIT = 32,      /* the tentative run is limited */
	PLAY_EARLY = 64,      /* at the limit: commit */
	PLAY_TWO = 128,	      /* data channels */
};

struct play {
	uint8_t flags;
	uint8_t turns;	/* of decent behaviour */
	uint8_t mode;	/* enum ferry_mode, modulo 3; a hostile source: 2 leaves a residue */
	uint8_t writes; /* low half: of the source's guest; high half: the arbiter has 1 source, 2 target, 3 no answer */
};
_Static_assert(sizeof(struct play) == 4, "");

enum play_op {
	STEP_DECENT,	/* a turn of decent behaviour */
	STEP_SAY,	/* message type */
	STEP_PATCH,	/* of the body of the next message, of type if not 0: 1 << width bytes of v at at */
	STEP_PATCH_HDR, /* of its header */
	STEP_LENGTH,	/* its body has n bytes */
	STEP_HEAR,	/* until type has come, or nothing for a while */
	STEP_PUT,	/* n pages from page v of region type */
	STEP_GET,
	STEP_FENCE,
	STEP_END,
	STEP_EXPOSE, /* own memory, for access type, in pages of 1 << (12 + at % 2) */
	STEP_KILL,
	STEP_CONNECT, /* generation + type, of another session if at is odd */
	STEP_CANCEL,  /* the embedder of the real end does */
	STEP_SWITCHOVER,
	STEP_PING, /* v, n */
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
	struct vm vm; /* of the real end */
	struct ferry_session *session;
	struct ferry_result res;
	pthread_t thread;

	struct xport_param param;
	struct xport_listener *listener; /* a target's */
	struct xport_link *link;	 /* NULL: none */
	struct xport_chan *ctl;
	struct fail fail;
	char uri[64];
	uint32_t generation, seq;
	struct fuzz_mem ram;  /* behind all regions that it pretends to have */
	uint64_t deadline_us; /* it has no more patience */

	struct patch patch[PATCHES_MAX];
	unsigned npatches;
	int64_t length; /* of the next body; negative: as it is */

	/* what was said and heard */
	unsigned said[WIRE_TYPES];
	bool over;		       /* REFUSED or ABORT was heard */
	uint32_t said_commit;	       /* the largest in a HELLO_ACK */
	uint64_t named[VM_REGIONS][2]; /* by RESIDUE */
	uint32_t round;
	unsigned turn;
	bool armed; /* PREARM was heard */
	uint64_t left;
	struct ferry_stream state; /* STATE that was sent since HELLO or MAP */
	uint8_t msg[XPORT_MSG_MAX];
	size_t heard_len;
};

/* How long anybody waits: short for a fuzzer, for which a lost link is as good as any; in tests never in vain. */
struct hostile_pace {
	uint64_t turn_us;		   /* a peer, for an answer: a session that has one gives it sooner */
	uint64_t patience_us;		   /* a peer, in all */
	uint64_t timeout_us, reconnect_us; /* of the session */
};
extern struct hostile_pace hostile_pace;

/* Whole executions; *res, if not NULL, is what the session came to. */
void play_hostile_source(const uint8_t *data, size_t size, struct ferry_result *res);
void play_hostile_target(const uint8_t *data, size_t size, struct ferry_result *res);
/* Not NULL: gets every message that either end sends, for the seeds. */
extern void (*hostile_tap)(const void *msg, size_t len, bool from_source, enum ferry_phase phase);

/* ---- what both have ---- */

void hostile_up(struct hostile *h, bool is_source, const struct play *play);
void hostile_down(struct hostile *h);
void *hostile_session(void *arg); /* thread: ferry_run() */
void hostile_config(const struct hostile *h, struct ferry_config *c);
/* The next message that is no PING into h->msg: its type, 0: none came, or the link is gone. */
unsigned hostile_hear(struct hostile *h);
bool hostile_hear_until(struct hostile *h, uint32_t mask);
/* The message that is in body, patched. */
void hostile_say(struct hostile *h, enum wire_type t, const void *body, size_t len);
void hostile_expose(struct hostile *h, enum xport_access access, unsigned shift);
void hostile_end_puts(struct hostile *h);
void hostile_drop(struct hostile *h);

struct hostile_role {
	void (*turn)(struct hostile *h);
	/* A decent body of that type here, and its length. */
	size_t (*body)(struct hostile *h, enum wire_type t, uint8_t *body);
	void (*connect)(struct hostile *h, unsigned more, bool other);
};
void hostile_play(struct hostile *h, const struct hostile_role *role, struct fuzz_in *in);
size_t hostile_mutate(uint8_t *data, size_t size, size_t max, unsigned seed);

#endif
