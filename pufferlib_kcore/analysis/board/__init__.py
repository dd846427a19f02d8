"""Board: all that lies in experiments/, train_dir/ and results/ on one page, live."""

from pufferlib_kcore.analysis.board.details import details
from pufferlib_kcore.analysis.board.index import Index
from pufferlib_kcore.analysis.board.page import asset, exported, page

__all__ = ["Index", "asset", "details", "exported", "page"]
