"""What a text has from another one: the longest runs of its words that stand there too."""

from collections.abc import Hashable, Iterable, Sequence


class Copied:
    """Looks for all runs of some pieces in a text that is read once, word by word.

    The pieces are kept as a suffix automaton (Blumer et al. 1985, doi
    10.1016/0304-3975(85)90157-4), so that memory grows with the pieces alone, however long the
    text: one pass tells every n-gram of every order. A word is anything that can be hashed.
    """

    def __init__(self, pieces: Sequence[Sequence[Hashable]]) -> None:
        self.following: list[dict[Hashable, int]] = [{}]
        self.shorter: list[int] = [-1]  # the state of the longest suffix that has another one
        self.length: list[int] = [0]  # of the longest run that ends in a state
        self.found: list[int] = [0]  # the longest part of it that the text has
        self.place = self.matched = 0  # where the text that is read stands
        self.ends = [self._add(piece) for piece in pieces]

    def read(self, text: Iterable[Hashable]) -> None:
        """Read a part of the text that goes on from the parts before."""
        place, matched = self.place, self.matched
        following, shorter, length, found = self.following, self.shorter, self.length, self.found
        for word in text:
            while word not in following[place] and place:
                place = shorter[place]
                matched = length[place]
            after = following[place].get(word)
            if after is None:
                matched = 0
                continue
            place, matched = after, matched + 1
            if matched > found[place]:
                found[place] = matched
        self.place, self.matched = place, matched

    def runs(self) -> list[list[int]]:
        """Of each piece and each of its words: how many words that end there the text has in a row.

        An n-gram that ends at a word is copied where its number is at least n.
        """
        found = list(self.found)
        for state in sorted(range(1, len(found)), key=self.length.__getitem__, reverse=True):
            if found[state] and (parent := self.shorter[state]):
                found[parent] = self.length[parent]  # a part of what was found
        longest = []
        for ends in self.ends:
            own = []
            for state in ends:
                while state and not found[state]:
                    state = self.shorter[state]
                own.append(found[state])
            longest.append(own)
        return longest

    def _add(self, piece: Sequence[Hashable]) -> list[int]:
        """The states after each word of a piece, which is added."""
        ends, last = [], 0
        for word in piece:
            last = self._extend(last, word)
            ends.append(last)
        return ends

    def _extend(self, last: int, word: Hashable) -> int:
        """The state of the run of state `last` and a word after it."""
        there = self.following[last].get(word)
        if there is not None:  # of another piece
            exact = self.length[there] == self.length[last] + 1
            return there if exact else self._split(last, word, there)
        new = self._state({}, 0, self.length[last] + 1)
        while last >= 0 and word not in self.following[last]:
            self.following[last][word] = new
            last = self.shorter[last]
        if last >= 0:
            there = self.following[last][word]
            exact = self.length[there] == self.length[last] + 1
            self.shorter[new] = there if exact else self._split(last, word, there)
        return new

    def _split(self, last: int, word: Hashable, there: int) -> int:
        """A state of its own for the shorter runs of state `there`, those up to `last` and word."""
        own = self._state(dict(self.following[there]), self.shorter[there], self.length[last] + 1)
        self.shorter[there] = own
        while last >= 0 and self.following[last].get(word) == there:
            self.following[last][word] = own
            last = self.shorter[last]
        return own

    def _state(self, following: dict[Hashable, int], shorter: int, length: int) -> int:
        self.following.append(following)
        self.shorter.append(shorter)
        self.length.append(length)
        self.found.append(0)
        return len(self.length) - 1
