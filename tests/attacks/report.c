// Anything of a hostile image: a program, a dynamic loader, a library. It tells the test as whom it runs, by a FIFO that the
// image holds, and ends. Without the C library, so that it runs as each of them.

static long call(long number, long a, long b, long c)
{
	long result;
	__asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	return result;
}

void report(void)
{
	char text[4000];
	long status = call(2, (long)"/proc/self/status", 0, 0); // open
	long length = call(0, status, (long)text, sizeof(text)); // read
	long fifo = call(2, (long)"/usr/share/report", 04001, 0); // O_WRONLY | O_NONBLOCK
	call(1, fifo, (long)text, length); // write
	call(3, status, 0, 0); // close
	call(3, fifo, 0, 0);
}

void _start(void)
{
	report();
	call(231, 7, 0, 0); // exit_group
	__builtin_unreachable();
}
