// SPDX-License-Identifier: MIT
/*
 * pin=lazy: both ends register memory in chunks of 16 MiB on first use. A channel holds at most
 * RDMA_PIN_SLOTS chunks at each end. If it needs another, the least recently used one is released, once
 * nothing is in flight.
 *
 * The channel that puts or gets decides what is pinned, at the peer too: it names one of its slots and a
 * chunk. The peer's service thread releases the slot's old chunk, registers the new one and sends its key.
 */
#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "rdma.h"
#include "runtime/base/fail.h"

/* Wait until nothing is in flight, because a request may still use the slot. */
static int settle(struct xr_data *d)
{
	int err = 0;

	while (!err && d->nmark)
		err = xr_wait_some(d);
	return err;
}

static void let_go(struct xr_near *n)
{
	if (n->mr)
		ibv_dereg_mr(n->mr);
	n->mr = NULL;
}

/* The slot to fill: an empty one, or the least recently used. */
static struct xr_near *near_victim(struct xr_data *d)
{
	struct xr_near *v = &d->near[0];
	unsigned i;

	for (i = 0; i < RDMA_PIN_SLOTS && v->mr; i++)
		if (!d->near[i].mr || d->near[i].used < v->used)
			v = &d->near[i];
	return v;
}

int xr_near(struct xr_data *d, const void *addr, bool landing, uint32_t *lkey, uint64_t *span)
{
	struct xr_link *l = d->link;
	struct xr_near *n = NULL;
	uint64_t len;
	uint8_t *base;
	unsigned i;
	int access = xr_mr_access(l, XPORT_LOCAL, landing), err;

	if (!xr_mr_chunk(l, addr, landing, &base, &len))
		return -EINVAL;
	for (i = 0; i < RDMA_PIN_SLOTS && !n; i++)
		if (d->near[i].mr && d->near[i].base == base && d->near[i].len == len &&
		    d->near[i].landing == landing)
			n = &d->near[i];
	if (!n) {
		n = near_victim(d);
		err = n->mr ? settle(d) : 0;
		if (err)
			return err;
		let_go(n);
		*n = (struct xr_near){ .base = base, .len = len, .landing = landing };
		err = xr_mr_reg(l, base, len, access, &n->mr, l->link.fail);
		if (err)
			return err;
	}
	n->used = ++d->clock;
	*lkey = n->mr->lkey;
	*span = (uint64_t)(n->base + n->len - (const uint8_t *)addr);
	return 0;
}

void xr_pin_drop_near(struct xr_link *l)
{
	unsigned c, i;

	for (c = 0; c <= l->link.id.channels; c++)
		for (i = 0; l->data[c] && i < RDMA_PIN_SLOTS; i++)
			let_go(&l->data[c]->near[i]);
}

/* Ask the peer for a chunk and wait for its answer. */
static int ask(struct xr_data *d, struct rdma_pin *p)
{
	struct xr_link *l = d->link;
	uint64_t end = deadline_after(now_us(), l->param.timeout_us);
	int err = 0;

	pthread_mutex_lock(&l->lock);
	l->pins[d->index].answered = false;
	/* The last XR_TX_SPARE slots are the service thread's. */
	while (!(err = xr_broken(l)) && (unsigned)__builtin_popcountll(l->tx_free) <= XR_TX_SPARE)
		if (!xr_wait(l, end)) {
			err = -ETIMEDOUT;
			break;
		}
	if (!err) {
		l->pins[d->index].asked = true;
		err = xr_send_small(l, RDMA_PIN, p, sizeof(*p));
	}
	while (!err && !l->pins[d->index].answered)
		if (!(err = xr_broken(l)) && !xr_wait(l, end))
			err = -ETIMEDOUT;
	*p = l->pins[d->index].pin;
	pthread_mutex_unlock(&l->lock);
	return err;
}

static struct xr_far *far_victim(struct xr_data *d)
{
	struct xr_far *v = &d->far[0];
	unsigned i;

	for (i = 0; i < RDMA_PIN_SLOTS && v->valid; i++)
		if (!d->far[i].valid || d->far[i].used < v->used)
			v = &d->far[i];
	return v;
}

static int fill_far(struct xr_data *d, struct xr_far *x, uint32_t region, uint64_t chunk, uint64_t seq)
{
	struct rdma_pin p = { .chan = htole32(d->index),
			      .slot = htole32((uint32_t)(x - d->far)),
			      .region = htole32(region),
			      .chunk = htole64(chunk) };
	int err = x->valid ? settle(d) : 0;

	x->valid = false;
	if (!err)
		err = ask(d, &p);
	if (err)
		return err;
	if (p.status)
		return fail(d->link->link.fail, -EPROTO,
			    "rdma: the peer cannot pin chunk %" PRIu64 " of region %u: %s; at the peer: %s",
			    chunk, d->link->table.r[region].id, strerror((int)(le32toh(p.status) & 4095)),
			    cure(CURE_RDMA_REGISTER, (int)(le32toh(p.status) & 4095)));
	*x = (struct xr_far){
		.region = region, .chunk = chunk, .rkey = le32toh(p.rkey), .keys_seq = seq, .valid = true
	};
	return 0;
}

int xr_far(struct xr_data *d, uint32_t region, uint64_t off, uint32_t *rkey, uint64_t *span)
{
	uint64_t chunk = off >> RDMA_CHUNK_SHIFT, seq;
	struct xr_far *x = NULL;
	unsigned i;
	int err;

	pthread_mutex_lock(&d->link->lock);
	seq = d->link->keys.seq;
	pthread_mutex_unlock(&d->link->lock);
	for (i = 0; i < RDMA_PIN_SLOTS && !x; i++)
		if (d->far[i].valid && d->far[i].keys_seq == seq && d->far[i].region == region &&
		    d->far[i].chunk == chunk)
			x = &d->far[i];
	if (!x) {
		x = far_victim(d);
		err = fill_far(d, x, region, chunk, seq);
		if (err)
			return err;
	}
	x->used = ++d->clock;
	*rkey = x->rkey;
	*span = ((chunk + 1) << RDMA_CHUNK_SHIFT) - off;
	return 0;
}

void xr_pin_drop_far(struct xr_link *l)
{
	unsigned c, i;

	for (c = 0; c <= XPORT_CHANNELS_MAX; c++)
		for (i = 0; i < RDMA_PIN_SLOTS; i++) {
			if (l->pinned[c][i])
				ibv_dereg_mr(l->pinned[c][i]);
			l->pinned[c][i] = NULL;
		}
}

/* Register the chunk that the peer asks for, if it is exposed to the peer. */
static int pin(struct xr_link *l, uint32_t region, uint64_t chunk, struct ibv_mr **ret)
{
	const struct xport_region *r = xp_table_find(&l->table, region);
	uint64_t len, first, size = UINT64_C(1) << RDMA_CHUNK_SHIFT;

	if (l->opt.pin != XR_PIN_LAZY || !r || !r->base || !l->table.access)
		return -EACCES;
	len = r->npages << PAGE_SHIFT;
	if (chunk > len >> RDMA_CHUNK_SHIFT || (first = chunk << RDMA_CHUNK_SHIFT) >= len)
		return -ERANGE;
	*ret = ibv_reg_mr(l->pd, (uint8_t *)r->base + first, size < len - first ? size : len - first,
			  xr_mr_access(l, l->table.access, false));
	return *ret ? 0 : -errno;
}

int xr_pin_serve(struct xr_link *l, const struct rdma_pin *p)
{
	struct ibv_mr **at = &l->pinned[le32toh(p->chan)][le32toh(p->slot)];
	struct rdma_pin answer = *p;
	int err;

	if (*at)
		ibv_dereg_mr(*at);
	*at = NULL;
	err = pin(l, le32toh(p->region), le64toh(p->chunk), at);
	answer.status = htole32((uint32_t)-err);
	answer.rkey = htole32(err ? 0 : (*at)->rkey);
	return xr_send_small(l, RDMA_PINNED, &answer, sizeof(answer));
}
