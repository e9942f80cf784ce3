/* The yardstick of vmcore_check.py: packs pages as makedumpfile does, and unpacks all pages of a dump. */

#include <lzo/lzo1x.h>
#include <snappy-c.h>
#include <stdint.h>
#include <stdlib.h>
#include <zlib.h>
#include <zstd.h>

enum { RAW = 0x0, ZLIB = 0x1, LZO = 0x2, SNAPPY = 0x4, ZSTD = 0x20 };

struct descriptor {
	int64_t offset;
	uint32_t size;
	uint32_t flags;
	uint64_t page_flags;
};

/* Return the stored size of one page, 0 if it does not shrink. */
size_t pack(uint32_t flags, const char *page, size_t page_size, char *out, size_t room)
{
	static char work[LZO1X_1_MEM_COMPRESS];
	size_t size = room;

	if (flags == ZLIB) {
		uLongf length = room;
		size = compress2((Bytef *)out, &length, (const Bytef *)page, page_size, Z_BEST_SPEED) == Z_OK ? length : 0;
	} else if (flags == LZO) {
		lzo_uint length = room;
		int bad = lzo1x_1_compress((const unsigned char *)page, page_size, (unsigned char *)out, &length, work);
		size = bad ? 0 : length;
	} else if (flags == SNAPPY) {
		if (snappy_compress(page, page_size, out, &size) != SNAPPY_OK)
			size = 0;
	} else {
		size = ZSTD_compress(out, room, page, page_size, 1);
		if (ZSTD_isError(size))
			size = 0;
	}
	return size < page_size ? size : 0;
}

/* Return how many of the pages unpack to exactly one page. */
long unpack_all(const char *file, const struct descriptor *table, long count, size_t page_size)
{
	static char page[65536];
	ZSTD_DCtx *context = ZSTD_createDCtx();
	long good = 0;

	for (long i = 0; i < count; i++) {
		const char *stored = file + table[i].offset;
		size_t size = table[i].size, length = page_size;

		switch (table[i].flags) {
		case RAW:
			good += size == page_size;
			break;
		case ZLIB: {
			uLongf out = page_size;
			good += uncompress((Bytef *)page, &out, (const Bytef *)stored, size) == Z_OK && out == page_size;
			break;
		}
		case LZO: {
			lzo_uint out = page_size;
			good += lzo1x_decompress_safe((const unsigned char *)stored, size, (unsigned char *)page, &out, NULL)
				== LZO_E_OK && out == page_size;
			break;
		}
		case SNAPPY:
			good += snappy_uncompress(stored, size, page, &length) == SNAPPY_OK && length == page_size;
			break;
		case ZSTD:
			good += ZSTD_decompressDCtx(context, page, page_size, stored, size) == page_size;
			break;
		}
	}
	ZSTD_freeDCtx(context);
	return good;
}
