/* SPDX-License-Identifier: MIT */
/*
 * The guest for QEMU, comparable with bench/vmm's: a PVH kernel (it starts in 32-bit protected mode). It
 * fills all of its RAM, then writes pseudo-random pages of a working set at a rate paced by the TSC, and
 * reports its progress on the debug port.
 *
 * The host puts the parameters (-device loader) at PARAM: bytes of RAM below 4 GiB, bytes above, bytes of the
 * working set (0: idle), pages per tick, TSC cycles per tick, sectors of the disk (0: none). Bytes on port 0xe9: 'F'
 * when the RAM is filled, then '.' for each tick whose pages were all written.
 *
 * With a disk (the first one of the first IDE controller), tick n also writes sector n - 1, and its '.' comes when the disk
 * has it for good. No sector is written twice in the VM's life, so each is read before, and 'X' says that it was not empty:
 * somebody else has written there. 'E': the disk has failed. After either, or the last sector, the guest halts.
 */
#define PARAM		0x180000	/* the firmware does not use it */
#define PML4		0x9000
#define PDPT		0xa000
#define PD		0xb000	/* 16 of them: 16 GiB */
#define GIB		16
#define HIGH		0x100000000
#define DATA		0x200000	/* first byte that is filled */
#define SECTOR		0x181000	/* what is read from the disk, and written to it */
#define ATA		0x1f0
#define ATA_CONTROL	0x3f6

	.section .note.pvh, "a", @note
	.balign 4
	.long 4, 4, 18			/* XEN_ELFNOTE_PHYS32_ENTRY */
	.asciz "Xen"
	.long _start

	.text
	.code32
	.globl _start
_start:
	cli
	/* identity map: PML4[0] -> PDPT[0..15] -> 2 MiB pages */
	movl $PDPT + 3, PML4
	movl $0, PML4 + 4
	movl $PDPT, %edi
	movl $PD + 3, %eax
	movl $GIB, %ecx
1:	movl %eax, (%edi)
	movl $0, 4(%edi)
	addl $8, %edi
	addl $0x1000, %eax
	loop 1b
	movl $PD, %edi
	movl $0x83, %eax
	xorl %edx, %edx
	movl $512 * GIB, %ecx
2:	movl %eax, (%edi)
	movl %edx, 4(%edi)
	addl $8, %edi
	addl $0x200000, %eax
	adcl $0, %edx
	loop 2b

	movl $PML4, %eax
	movl %eax, %cr3
	movl %cr4, %eax
	orl $0x20, %eax
	movl %eax, %cr4
	movl $0xc0000080, %ecx
	rdmsr
	orl $0x100, %eax
	wrmsr
	movl %cr0, %eax
	orl $0x80000000, %eax
	movl %eax, %cr0
	lgdt gdt_pointer
	ljmp $8, $long

	.balign 8
gdt:	.quad 0, 0x00af9b000000ffff
gdt_pointer:
	.word 15
	.long gdt

	.code64
long:
	mov $PARAM, %esp
	/* each word is unique: a counter times an odd constant */
	movabs $0x9e3779b97f4a7c15, %r12
	xor %r8d, %r8d
	mov $DATA, %edi
	mov PARAM, %rsi
	call fill
	movabs $HIGH, %rdi
	mov PARAM + 8, %rsi
	add %rdi, %rsi
	call fill
	mov $'F', %al
	outb %al, $0xe9

	mov PARAM + 16, %r9
	shr $12, %r9			/* pages of the working set */
	jz idle
	mov PARAM + 24, %r10		/* pages per tick */
	mov PARAM + 32, %r11		/* cycles per tick */
	mov $1, %ebx			/* xorshift */
	xor %r13d, %r13d		/* the sector to be written */
	mov PARAM + 40, %r14
	mov $2, %al			/* no interrupts */
	mov $ATA_CONTROL, %dx
	outb %al, %dx
	call now
	mov %rax, %rbp
tick:	add %r11, %rbp
	mov %r10, %rcx
3:	mov %rbx, %rax
	shl $13, %rax
	xor %rax, %rbx
	mov %rbx, %rax
	shr $7, %rax
	xor %rax, %rbx
	mov %rbx, %rax
	shl $17, %rax
	xor %rax, %rbx
	mov %rbx, %rax
	mul %r9				/* rdx: a page */
	shl $12, %rdx
	mov %rbx, DATA(%rdx)
	dec %rcx
	jnz 3b
	test %r14, %r14
	jz 8f
	call record
8:	mov $'.', %al
	outb %al, $0xe9
4:	call now
	cmp %rbp, %rax
	jae 5f
	pause
	jmp 4b
	/* more than ten ticks late: skip the missed ticks */
5:	mov %rax, %rdx
	sub %rbp, %rdx
	imul $10, %r11, %rcx
	cmp %rcx, %rdx
	jb tick
	mov %rax, %rbp
	jmp tick

idle:	hlt
	jmp idle

/* Sector r13 must be empty; then all its words are its number, counted from 1. */
record:	cmp %r14, %r13
	jae idle
	mov $0x20, %al			/* READ SECTORS */
	call command
	call data
	mov $SECTOR, %edi
	mov $256, %ecx
	rep insw
	mov $SECTOR, %edi
	mov $64, %ecx
	xor %eax, %eax
	repe scasq
	mov $'X', %al
	jne broken
	inc %r13
	mov %r13, %rax
	mov $SECTOR, %edi
	mov $64, %ecx
	rep stosq
	dec %r13
	mov $0x30, %al			/* WRITE SECTORS */
	call command
	call data
	mov $SECTOR, %esi
	mov $256, %ecx
	rep outsw
	call ready
	mov $0xe7, %al			/* FLUSH CACHE */
	call command
	call ready
	inc %r13
	ret

/* al, for sector r13 */
command:
	mov %al, %r15b
	mov $ATA + 6, %dx
	mov $0xe0, %al
	outb %al, %dx
	mov $ATA + 2, %dx
	mov $1, %al
	outb %al, %dx
	mov %r13, %rax
	inc %dx
	outb %al, %dx
	shr $8, %rax
	inc %dx
	outb %al, %dx
	shr $8, %rax
	inc %dx
	outb %al, %dx
	mov %r15b, %al
	mov $ATA + 7, %dx
	outb %al, %dx
	ret

/* Wait until the disk is not busy; data: and wants the data moved, by the port in dx on return. */
ready:	mov $ATA + 7, %dx
	inb %dx, %al
	test $0x80, %al
	jnz ready
	test $0x21, %al			/* a fault, an error */
	mov $'E', %al
	jnz broken
	ret
data:	call ready
	inb %dx, %al
	test $8, %al
	jz data
	mov $ATA, %dx
	ret

broken:	outb %al, $0xe9
	jmp idle

now:	rdtsc
	shl $32, %rdx
	or %rdx, %rax
	ret

/* rdi to rsi */
fill:	cmp %rsi, %rdi
	jae 7f
	mov %r8, %rax
	imul %r12, %rax
	or $1, %rax
6:	mov %rax, (%rdi)
	add %r12, %rax
	add $8, %rdi
	test $0xfff, %edi
	jnz 6b
	inc %r8
	jmp fill
7:	ret
