"""Paint a photograph like a painting, in four tiles on two workers: python examples/quickstart.py PHOTO PAINTING OUT"""

import sys

from parallel_nst import Recipe, TilingSpec, open_pool, read_image, stylize, write_image

if __name__ == "__main__":
    content, style, output = sys.argv[1:4]
    recipe = Recipe(size=512, tiling=TilingSpec(tiles="4"))
    with open_pool(recipe, workers=2) as pool:
        result = stylize(read_image(content), read_image(style), recipe, pool)
    write_image(output, result.picture, settings=recipe.to_toml())
    print(f"{output}: {pool.size} workers, loss {result.loss:.4f}, border step ratio {result.step_ratio:.2f}")
